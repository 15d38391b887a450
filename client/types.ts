/** Shapes of the HTTP API's answers. Times are ISO 8601, UTC, milliseconds. */
import type { AuditEvent } from '../core/audit.ts';
import type { ErrorCode } from '../core/errors.ts';
import type { RecordedCall } from '../core/replay.ts';
import type { RunState } from '../core/run-contract.ts';
import type { RequestStatus } from '../core/words.ts';

/** `GET /v1/runs/{run_id}`, also the answer of `POST /v1/runs` and of a cancel. */
export interface RunView extends RunState {
  agent: string;
  owner: string | null;
  requester: string | null;
  goal: string;
  created_at: string;
  stopped_at: string | null;
  /** First of `pending`, null when the run does not wait. */
  pending_id: string | null;
  /** Address of the run in Temporal Web, null when none is configured. */
  temporal_web: string | null;
}

export interface Vote {
  decision_id: string;
  approver: string;
  outcome: 'approved' | 'denied';
  reason: string | null;
  decided_at: string;
}

/** `GET /v1/approvals/{pending_id}`. */
export interface ApprovalView {
  pending_id: string;
  run_id: string;
  call_id: string;
  status: RequestStatus;
  tool: string;
  kind: 'read' | 'write';
  /** Rendered by the service from the stored arguments, complete, hidden characters made visible. */
  args_text: string;
  args: unknown;
  args_hash: string;
  args_bytes: number;
  /** One line made by the worker from the tool's own `preview`: a label, no proof. */
  preview: string;
  /** Why policy asks. */
  reason: string;
  rule: string;
  tier: string;
  policy_hash: string;
  tool_hash: string;
  agent: string;
  owner: string | null;
  requester: string | null;
  /** The agent's own words. */
  agent_reason: string | null;
  quorum: number;
  missing: number;
  votes: Vote[];
  created_at: string;
  expires_at: string;
  remaining_ms: number;
  usable_until: string | null;
}

/** `POST /v1/approvals/{pending_id}/decision`: 200 with one of these. Other answers are problems (codes in `core/errors.ts`). */
export interface DecisionAnswer {
  /** `accepted`: this decision resolves the request. `quorum_pending`: more votes are missing. `already_decided`: the same was recorded before. */
  status: 'accepted' | 'quorum_pending' | 'already_decided';
  decision: Vote;
  pending_id: string;
  run_id: string;
  missing: number;
}

export interface ControlView {
  scope: string;
  engaged: boolean;
  reason: string | null;
  changed_by: string;
  changed_at: string;
}

/** One finding of `audit verify`. `where` names the record: `run_id#seq (outcome)`. */
export interface AuditFinding {
  kind: 'changed' | 'removed' | 'reordered' | 'cut_off' | 'inserted' | 'bad_signature' | 'bad_checkpoint' | 'missing_checkpoint' | 'grant_without_token';
  run_id: string | null;
  seq: number | null;
  where: string;
  message: string;
}
export interface AuditReport {
  ok: boolean;
  runs: number;
  events: number;
  checkpoints: number;
  grants: number;
  findings: AuditFinding[];
  /** A cut of what came after this time could not be seen yet; null when no checkpoint exists. */
  sealed_until: string | null;
}
export interface AuditPage {
  events: AuditEvent[];
  /** Cursor for the next page, null at the end. */
  next: string | null;
}

/** `GET /v1/audit/calls`. May hold fewer calls than `limit`, also none, and not be the last: arguments are large. */
export interface RecordedCallsPage {
  calls: RecordedCall[];
  /** Cursor for the next page, null at the end. */
  next: string | null;
}

/** Problem document (RFC 9457) of every error. `type` is `urn:holdpoint:error:<code>`. */
export interface Problem {
  type: string;
  title: string;
  status: number;
  detail: string;
  code: ErrorCode;
  hint?: string;
  details?: Record<string, unknown>;
}

/** A line of `audit export`: NDJSON, public keys, then checkpoints, then events in order of run and seq. */
export type ExportLine =
  | { type: 'event'; event: AuditEvent }
  | { type: 'checkpoint'; n: number; at: string; jws: string }
  | { type: 'key'; kid: string; jwk: Record<string, unknown> };
