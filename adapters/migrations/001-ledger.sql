-- The ledger. Two roles work in it: holdpoint_worker (gateway) and holdpoint_serve (decision service, API).
-- Times have milliseconds, as everything that is hashed or shown. Ids of a run's rows start with
-- (run_id, first_execution_id): a workflow that took the id of a registered run gets rows of its own.

CREATE TABLE runs (               -- written by the API before the workflow starts
  run_id             text PRIMARY KEY,
  start_request_id   uuid NOT NULL UNIQUE,
  first_execution_id text,        -- what Temporal's start answered; null until then
  agent              text NOT NULL,
  owner              text NOT NULL,
  requester          text NOT NULL,
  input              json NOT NULL, -- json, not jsonb: it keeps every string that JSON can hold
  idempotency_key    text,
  created_at         timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  checked_at         timestamptz(3) NOT NULL DEFAULT clock_timestamp(), -- by the sweeper
  UNIQUE (owner, idempotency_key)
);

CREATE INDEX runs_newest ON runs (created_at DESC);
CREATE INDEX runs_unstarted ON runs (checked_at) WHERE first_execution_id IS NULL;

CREATE TABLE run_heads (          -- end of each run's audit chain; its lock orders all that happens to a run
  run_id text PRIMARY KEY,
  seq    bigint NOT NULL DEFAULT 0,
  hash   text NOT NULL,
  sealed_seq bigint NOT NULL DEFAULT 0
);
CREATE INDEX run_heads_unsealed ON run_heads (run_id) WHERE sealed_seq < seq;

CREATE TABLE run_states (
  run_id             text NOT NULL,
  first_execution_id text NOT NULL,
  registered         boolean NOT NULL,
  agent              text NOT NULL,
  owner              text,
  requester          text,
  goal               text NOT NULL DEFAULT '',
  ttl_seconds        integer,     -- the run file's own, can only shorten
  input              json NOT NULL,  -- read by the planner alone: it may be large
  stop               json,       -- null while the run goes on
  stopped_at         timestamptz(3),
  steps              integer NOT NULL DEFAULT 0,
  tool_calls         integer NOT NULL DEFAULT 0,
  active_ms          bigint NOT NULL DEFAULT 0,
  usd                double precision NOT NULL DEFAULT 0,
  started_at         timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  checked_at         timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  PRIMARY KEY (run_id, first_execution_id)
);
CREATE INDEX run_states_live ON run_states (checked_at) WHERE stop IS NULL;

CREATE TABLE run_steps (          -- a planner's answer, once per step, so that a retried step is not counted twice
  run_id             text NOT NULL,
  first_execution_id text NOT NULL,
  step               integer NOT NULL,
  usd                double precision NOT NULL DEFAULT 0,
  active_ms          bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (run_id, first_execution_id, step)
);

CREATE TABLE arguments (          -- apart from the chain, so that they can be erased without breaking it
  args_hash text PRIMARY KEY,
  tool      text NOT NULL,
  canonical text NOT NULL         -- RFC 8785 form of the arguments, byte for byte what was hashed
);

CREATE TABLE calls (
  run_id             text NOT NULL,
  first_execution_id text NOT NULL,
  call_id            text NOT NULL,
  step               integer NOT NULL,
  position           integer NOT NULL,
  tool               text NOT NULL,
  kind               text NOT NULL CHECK (kind IN ('read', 'write')),
  tool_hash          text NOT NULL,
  args_hash          text NOT NULL,
  reason             text,        -- the agent's own words
  status             text NOT NULL CHECK (status IN ('ready', 'waiting', 'executing', 'done', 'refused', 'stopped')),
  pending_id         text,        -- the request it waits or waited for
  fence              integer NOT NULL DEFAULT 0, -- number of the attempt that may record the outcome
  result_status      text CHECK (result_status IN ('ok', 'error', 'unknown')),
  result             text,
  result_sha256      text,
  result_bytes       bigint,
  stop               json,       -- why it was refused or stopped the run
  final              boolean,
  active_ms          bigint NOT NULL DEFAULT 0,
  created_at         timestamptz(3) NOT NULL DEFAULT clock_timestamp(),
  claimed_at         timestamptz(3),
  finished_at        timestamptz(3),
  PRIMARY KEY (run_id, first_execution_id, call_id)
);
CREATE INDEX calls_in_order ON calls (run_id, first_execution_id, step, position);
CREATE INDEX calls_refused ON calls (run_id, first_execution_id, args_hash) WHERE status = 'refused';

CREATE TABLE approval_requests (  -- the inbox
  pending_id         text PRIMARY KEY,
  run_id             text NOT NULL,
  first_execution_id text NOT NULL,
  call_id            text NOT NULL,
  tool               text NOT NULL,
  kind               text NOT NULL,
  tool_hash          text NOT NULL,
  args_hash          text NOT NULL,
  preview            text NOT NULL,
  agent_reason       text,
  reason             text NOT NULL,
  rule               text NOT NULL,
  tier               text NOT NULL,
  policy_hash        text NOT NULL,
  agent              text NOT NULL,
  owner              text,
  requester          text,
  quorum             integer NOT NULL,
  ttl_seconds        integer NOT NULL,
  execute_within_seconds integer NOT NULL,
  status             text NOT NULL DEFAULT 'open' CHECK (status IN ('open', 'approved', 'denied', 'timed_out', 'cancelled', 'superseded')),
  created_at         timestamptz(3) NOT NULL,
  expires_at         timestamptz(3) NOT NULL,
  token_exp          bigint NOT NULL, -- claim exp of every vote: expires_at + execute_within_seconds, in whole seconds
  resolved_at        timestamptz(3),
  usable_until       timestamptz(3),
  rejected           integer NOT NULL DEFAULT 0
);
CREATE INDEX approval_requests_open ON approval_requests (expires_at, pending_id) WHERE status = 'open';
CREATE INDEX approval_requests_run ON approval_requests (run_id, first_execution_id, call_id);

CREATE TABLE decisions (          -- written by the decision service alone
  decision_id  text PRIMARY KEY,  -- claim jti
  pending_id   text NOT NULL REFERENCES approval_requests,
  run_id       text NOT NULL,
  approver     text NOT NULL,
  outcome      text NOT NULL CHECK (outcome IN ('approved', 'denied')),
  reason       text,
  token        text NOT NULL,
  decided_at   timestamptz(3) NOT NULL,
  delivered_at timestamptz(3),    -- when Temporal had taken the signal, or the run was gone
  attempts     integer NOT NULL DEFAULT 0,
  UNIQUE (pending_id, approver)
);
CREATE INDEX decisions_undelivered ON decisions (decided_at) WHERE delivered_at IS NULL;

CREATE TABLE consumptions (       -- a decision is used by one call, once
  decision_id     text PRIMARY KEY REFERENCES decisions,
  idempotency_key text NOT NULL,
  consumed_at     timestamptz(3) NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE controls (           -- the kill switch; scope is 'global', 'agent:NAME' or 'tool:NAME'
  scope      text PRIMARY KEY,
  engaged    boolean NOT NULL,
  reason     text,
  changed_by text NOT NULL,
  changed_at timestamptz(3) NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE approvers (          -- who may decide; checked when deciding and again when executing
  principal text PRIMARY KEY,
  roles     text[] NOT NULL,
  active    boolean NOT NULL DEFAULT true
);
CREATE TABLE api_keys (
  key_sha256 text PRIMARY KEY,
  principal  text NOT NULL REFERENCES approvers,
  active     boolean NOT NULL DEFAULT true
);

CREATE TABLE signing_keys (       -- for display; what the gateway trusts is pinned outside the database
  kid        text PRIMARY KEY,
  issuer     text NOT NULL,
  jwk        jsonb NOT NULL,
  created_at timestamptz(3) NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE audit_events (
  run_id      text NOT NULL,
  seq         bigint NOT NULL,
  event_key   text NOT NULL,
  at          timestamptz(3) NOT NULL,
  agent       text, owner text, requester text,
  tool        text, tool_hash text, call_id text, pending_id text,
  outcome     text NOT NULL,
  reason      text, detail text, rule text, tier text, policy_hash text, args_hash text,
  approver    text, token text, result text,
  prev_hash   text NOT NULL,
  hash        text NOT NULL,
  PRIMARY KEY (run_id, seq),
  UNIQUE (run_id, event_key)
);
CREATE INDEX audit_events_at ON audit_events (at, run_id, seq);

CREATE TABLE checkpoints (
  n     bigint PRIMARY KEY,       -- from 1, without gaps
  at    timestamptz(3) NOT NULL,
  jws   text NOT NULL             -- signed by the decision service; the same line is in checkpoints.jsonl
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$;
CREATE TRIGGER audit_events_append_only BEFORE UPDATE OR DELETE ON audit_events FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER audit_events_no_truncate BEFORE TRUNCATE ON audit_events EXECUTE FUNCTION refuse_change();
CREATE TRIGGER checkpoints_append_only BEFORE UPDATE OR DELETE ON checkpoints FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER checkpoints_no_truncate BEFORE TRUNCATE ON checkpoints EXECUTE FUNCTION refuse_change();
CREATE TRIGGER decisions_keep BEFORE DELETE ON decisions FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER consumptions_append_only BEFORE UPDATE OR DELETE ON consumptions FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Wakes those who wait for a run (payload: its id) and the sealer.
CREATE FUNCTION notify_run() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_notify('holdpoint_run', NEW.run_id); RETURN NULL; END $$;
CREATE TRIGGER request_changed AFTER INSERT OR UPDATE OF status ON approval_requests FOR EACH ROW EXECUTE FUNCTION notify_run();
CREATE TRIGGER run_stopped AFTER UPDATE OF stop ON run_states FOR EACH ROW EXECUTE FUNCTION notify_run();

-- Rights. The worker's role cannot write runs, decisions, keys, approvers, controls or checkpoints.
GRANT SELECT ON runs, run_heads, run_states, run_steps, arguments, calls, approval_requests, decisions, consumptions,
  controls, approvers, audit_events, schema_migrations TO holdpoint_worker;
GRANT INSERT ON run_heads, run_states, run_steps, arguments, calls, approval_requests, consumptions, audit_events TO holdpoint_worker;
GRANT UPDATE (seq, hash) ON run_heads TO holdpoint_worker;
GRANT UPDATE (stop, stopped_at, steps, tool_calls, active_ms, usd) ON run_states TO holdpoint_worker;
GRANT UPDATE (usd, active_ms) ON run_steps TO holdpoint_worker;
GRANT UPDATE ON calls TO holdpoint_worker;
GRANT UPDATE (status, quorum, resolved_at, usable_until, rejected) ON approval_requests TO holdpoint_worker;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO holdpoint_serve;
GRANT INSERT ON runs, run_heads, run_states, decisions, controls, approvers, api_keys, signing_keys, audit_events, checkpoints TO holdpoint_serve;
GRANT UPDATE (first_execution_id, checked_at) ON runs TO holdpoint_serve;
GRANT UPDATE (seq, hash, sealed_seq) ON run_heads TO holdpoint_serve;
GRANT UPDATE (stop, stopped_at, checked_at) ON run_states TO holdpoint_serve;
GRANT UPDATE (status, resolved_at, usable_until) ON approval_requests TO holdpoint_serve;
GRANT UPDATE (delivered_at, attempts) ON decisions TO holdpoint_serve;
GRANT UPDATE ON controls, approvers, api_keys TO holdpoint_serve;
