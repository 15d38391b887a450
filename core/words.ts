/** The fixed words of the wire: stop reasons, outcomes, event names. Plain constants, so that workflow code may import them. */

/** Policy's answer to one call. */
export type PolicyOutcome = 'allow' | 'deny' | 'approval_required';

/** What an approver says. */
export type DecisionOutcome = 'approved' | 'denied';

/** Why a run ended. `approval_required` is the one that is not final: the run waits. */
export const STOP_REASONS = [
  'completed',
  'approval_denied',
  'approval_timeout',
  'policy_denied',
  'budget_exceeded',
  'kill_switch',
  'cancelled',
  'approval_expired_unused',
  'outcome_unknown',
  'tool_failed',
  'planner_failed',
] as const;
export type StopReason = (typeof STOP_REASONS)[number];

/** Names of audit events (column `outcome` of `audit_events`). */
export const AUDIT_OUTCOMES = [
  'run_started',
  'allow',
  'deny',
  'approval_required',
  'vote_recorded',
  'approval_granted',
  'approval_denied',
  'approval_timeout',
  'approval_cancelled',
  'decision_rejected',
  'execution_started',
  'outcome_resolved',
  'run_stopped',
  'request_superseded',
  'kill_switch_engaged',
  'kill_switch_released',
  'key_changed',
] as const;
export type AuditOutcome = (typeof AUDIT_OUTCOMES)[number];

/** State of one approval request. `approved` = the quorum is complete, the call may execute. */
export type RequestStatus = 'open' | 'approved' | 'denied' | 'timed_out' | 'cancelled' | 'superseded';

/** Agent of a run that the API did not start. */
export const UNVERIFIED_AGENT = 'unverified';

/** `run_id` of events that belong to no run. */
export const SYSTEM_RUN = 'system';

/** Temporal search attributes of a run, all of type Keyword. */
export const SEARCH_ATTRIBUTES = { status: 'HoldpointStatus', agent: 'HoldpointAgent', stopReason: 'HoldpointStopReason' } as const;

/** Sizes that every edge enforces, in bytes of UTF-8 unless said otherwise. */
export const LIMITS = {
  /** Arguments of one call in canonical form. */
  args: 262_144,
  /** All calls of one planner step together. */
  step: 1_048_576,
  /** Calls in one planner step. */
  callsPerStep: 64,
  /** Tool result that is kept; a longer one is cut and marked. */
  result: 1_048_576,
  /** Part of a result that goes into Temporal's history. */
  resultHead: 4_096,
  /** Run file, planner script included. */
  runFile: 1_048_576,
  /** Approval token; ours are about 1 KB. */
  token: 8_192,
  /** Signals that one verification batch may hold. */
  batch: 64,
  /** `decision_rejected` records per request; after that only a counter grows. */
  rejectedRecords: 20,
  /** Characters of a reason, name or goal. */
  text: 4_000,
} as const;
