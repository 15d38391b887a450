-- Number of the planner's newest attempt: an attempt that was given up may still answer, and must not end the run.
ALTER TABLE run_states ADD COLUMN plans integer NOT NULL DEFAULT 0;
GRANT UPDATE (plans) ON run_states TO holdpoint_worker;

-- Functions that do in one round trip what took several. Volatile, so that each statement in them has a snapshot of its
-- own: what is read after a lock is what was true after it.

-- Locks a run's head, makes it when the run is new, and reads the one clock after the lock.
CREATE FUNCTION lock_run(p_run_id text, p_genesis text, OUT seq bigint, OUT hash text, OUT at timestamptz) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  SELECT h.seq, h.hash INTO seq, hash FROM run_heads h WHERE h.run_id = p_run_id FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO run_heads (run_id, hash) VALUES (p_run_id, p_genesis) ON CONFLICT DO NOTHING;
    SELECT h.seq, h.hash INTO seq, hash FROM run_heads h WHERE h.run_id = p_run_id FOR UPDATE;
  END IF;
  at := date_trunc('milliseconds', clock_timestamp());
END $$;

-- Shares the kill switch's lock until the transaction ends and answers the first switch that is engaged, if any.
CREATE FUNCTION engaged_control(p_scopes text[], OUT scope text, OUT reason text, OUT at timestamptz) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtext('holdpoint-controls'));
  SELECT c.scope, c.reason INTO scope, reason FROM controls c WHERE c.engaged AND c.scope = ANY (p_scopes) ORDER BY c.scope LIMIT 1;
  at := date_trunc('milliseconds', clock_timestamp());
END $$;

-- Locks a call's run and reads all that the gateway judges the call by. Without a tool the kill switch is left alone.
-- Locks are taken in one order: the run's head, the request, the switch.
CREATE FUNCTION enter_call(
  p_run_id text, p_execution text, p_call_id text, p_tool text, p_genesis text,
  OUT seq bigint, OUT hash text, OUT at timestamptz, OUT run json, OUT call json, OUT request json, OUT votes json, OUT canonical text,
  OUT control_scope text, OUT control_reason text
) LANGUAGE plpgsql VOLATILE AS $$
#variable_conflict use_column
DECLARE
  v_agent text;
  v_pending_id text;
  v_args_hash text;
BEGIN
  SELECT l.seq, l.hash INTO seq, hash FROM lock_run(p_run_id, p_genesis) l;
  SELECT s.agent, to_json(s) INTO v_agent, run FROM (
    SELECT registered, agent, owner, requester, goal, ttl_seconds, stop, steps, tool_calls, active_ms, usd, plans
    FROM run_states WHERE run_id = p_run_id AND first_execution_id = p_execution) s;
  SELECT c.pending_id, c.args_hash, to_json(c) INTO v_pending_id, v_args_hash, call FROM (
    SELECT call_id, step, position, tool, kind, tool_hash, args_hash, reason, status, pending_id, fence, result_status, result, result_sha256, result_bytes,
      stop, final
    FROM calls WHERE run_id = p_run_id AND first_execution_id = p_execution AND call_id = p_call_id) c;
  IF p_tool IS NOT NULL THEN
    SELECT to_json(r) INTO request FROM (
      SELECT * FROM approval_requests WHERE run_id = p_run_id AND first_execution_id = p_execution AND pending_id = v_pending_id FOR UPDATE) r;
    SELECT e.scope, e.reason INTO control_scope, control_reason
    FROM engaged_control(ARRAY['global', 'agent:' || coalesce(v_agent, ''), 'tool:' || p_tool]) e;
    -- After the last lock: whoever held the switch may have been waited for, and rights taken away meanwhile are gone.
    SELECT json_agg(v) INTO votes FROM (
      SELECT d.decision_id, d.pending_id, d.run_id, d.approver, d.outcome, d.reason, d.token, d.decided_at, a.roles, u.idempotency_key AS used_by
      FROM decisions d LEFT JOIN approvers a ON a.principal = d.approver AND a.active LEFT JOIN consumptions u USING (decision_id)
      WHERE d.pending_id = v_pending_id AND d.run_id = p_run_id ORDER BY d.decided_at, d.decision_id) v;
    SELECT g.canonical INTO canonical FROM arguments g WHERE g.args_hash = v_args_hash AND v_pending_id IS NOT NULL;
  END IF;
  at := date_trunc('milliseconds', clock_timestamp());
END $$;

-- Fails the transaction unless exactly one row was changed: the commit is sent together with the writes, nobody looks in between.
CREATE FUNCTION expect_one(p_rows bigint, p_what text) RETURNS void LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  IF p_rows <> 1 THEN RAISE EXCEPTION '% rows of % were changed where one was meant', p_rows, p_what; END IF;
END $$;
