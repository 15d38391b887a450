/** The rule of the audit chain. Hashing comes in as an argument: `core/` touches no crypto. */
import type { AuditOutcome } from './words.ts';

/** What a writer says of an event. Everything else is added when it is appended. */
export interface AuditFacts {
  /** Unique in the run: writing the same event twice is writing it once. Made of call, phase and decision id. */
  event_key: string;
  outcome: AuditOutcome;
  agent: string | null;
  owner: string | null;
  requester: string | null;
  tool: string | null;
  tool_hash: string | null;
  call_id: string | null;
  pending_id: string | null;
  /** Machine word or the approver's own words. */
  reason: string | null;
  /** One sentence for people. */
  detail: string | null;
  rule: string | null;
  tier: string | null;
  policy_hash: string | null;
  args_hash: string | null;
  approver: string | null;
  token: string | null;
  /** `ok`, `error` or `unknown` for an execution, the stop reason for `run_stopped`. */
  result: string | null;
}

/** One row of `audit_events`. */
export interface AuditEvent extends AuditFacts {
  run_id: string;
  /** From 1, without gaps. */
  seq: number;
  /** ISO 8601, UTC, milliseconds, by the ledger's clock. */
  at: string;
  /** `hash` of the event before, {@link GENESIS} for the first. */
  prev_hash: string;
  /** SHA-256 of the canonical form of all the other members. */
  hash: string;
}

/** `prev_hash` of the first event of each run. */
export const GENESIS = `sha256:${'0'.repeat(64)}`;

/** Nothing said. */
export const NO_FACTS: Readonly<Omit<AuditFacts, 'event_key' | 'outcome'>> = {
  agent: null,
  owner: null,
  requester: null,
  tool: null,
  tool_hash: null,
  call_id: null,
  pending_id: null,
  reason: null,
  detail: null,
  rule: null,
  tier: null,
  policy_hash: null,
  args_hash: null,
  approver: null,
  token: null,
  result: null,
};

/** An event with nothing said but its key and outcome. */
export function auditFacts(facts: Partial<AuditFacts> & Pick<AuditFacts, 'event_key' | 'outcome'>): AuditFacts {
  return { ...NO_FACTS, ...facts };
}

/** Hash of a value's canonical (RFC 8785) form: `sha256:` + hex. */
export type HashJson = (value: unknown) => string;

/** Puts an event at the end of a chain. */
export function chainEvent(head: { run_id: string; seq: number; hash: string }, facts: AuditFacts, at: string, hashJson: HashJson): AuditEvent {
  const unhashed = { ...facts, run_id: head.run_id, seq: head.seq + 1, at, prev_hash: head.hash };
  return { ...unhashed, hash: hashJson(unhashed) };
}

/** True when the event's own hash is right. */
export function hashMatches(event: AuditEvent, hashJson: HashJson): boolean {
  const { hash, ...unhashed } = event;
  return hashJson(unhashed) === hash;
}
