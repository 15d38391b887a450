/**
 * What workflow and activities say to each other, as types only: workflow code imports no parser. Shapes are snake_case
 * because Temporal's history and Temporal Web show them. Times are ISO 8601 in UTC with milliseconds.
 */
import type { StopReason } from './words.ts';

/** A call as the planner asked for it. `args` is any JSON value; the gateway parses it against the tool's schema. */
export interface PlannedCall {
  tool: string;
  args: unknown;
  /** The agent's own words, shown to approvers as such. */
  reason?: string;
  /** Set instead of `args` when the arguments were over the limit: their size in bytes. */
  oversized_bytes?: number;
}

/** Identifies the run towards every activity. The workflow id comes from Temporal, not from here. */
export interface RunRef {
  first_execution_id: string;
}

export interface OpenRunInput extends RunRef {
  /** The workflow's argument, unread. Used only when the API holds no row for this run. */
  input: unknown;
}
export interface OpenRunResult {
  agent: string;
  goal: string;
  /** False: the API did not start this run, or under another execution. */
  registered: boolean;
  /** False: the namespace lacks the search attributes, and an upsert would wedge the run. */
  search_attributes: boolean;
}

export interface PlanInput extends RunRef {
  /** Counts from 1. */
  step: number;
}
export type PlanResult =
  | { status: 'calls'; calls: PlannedCall[] }
  /** `usage`: the gateway has recorded the end of the run in the same transaction, nothing is left to close. */
  | { status: 'done'; result?: string; usage?: Usage }
  | { status: 'stopped'; stop: Stop };

export interface CallInput extends RunRef {
  /** Assigned by the workflow: `<step>.<position>`, both from 1. */
  call_id: string;
  tool: string;
  args: unknown;
  reason?: string;
  oversized_bytes?: number;
  /** `evaluate`: decide and ask, but have no effect, since an earlier call of the step waits. */
  mode: 'execute' | 'evaluate';
  /** Approval tokens (compact JWS), at most one per vote. */
  tokens?: string[];
}

/** The part of a tool's result that history carries; the whole result is in the ledger. */
export interface ResultSummary {
  status: 'ok' | 'error';
  bytes: number;
  sha256: string;
  /** First 4 KB. */
  head: string;
}

/** An approval request as the run and its viewers see it. */
export interface PendingView {
  pending_id: string;
  call_id: string;
  tool: string;
  preview: string;
  reason: string;
  rule: string;
  tier: string;
  args_hash: string;
  quorum: number;
  /** Votes that are still missing. */
  missing: number;
  expires_at: string;
  /** Milliseconds to the deadline by the ledger's clock: what the run's timer is set to, so that skew changes nothing. */
  remaining_ms: number;
}

/** A final stop: reason of the run, in words for people. */
export interface Stop {
  stop_reason: StopReason;
  reason: string;
  call_id?: string;
  tool?: string;
  rule?: string;
  /** Name of the exhausted budget. */
  budget?: string;
}

/** Answer of the gateway to one `callTool`. */
export type CallResult =
  /** The effect is done, now or by an earlier attempt. */
  | { status: 'executed'; args_hash: string; result: ResultSummary }
  /** Allowed or granted, not executed because of mode `evaluate`. */
  | { status: 'ready'; args_hash: string }
  /** Waits for people. */
  | { status: 'waiting'; request: PendingView }
  /** The planner asked for something that is no call: goes back to it, three in a row end the run. */
  | { status: 'invalid'; code: 'unknown_tool' | 'invalid_arguments'; reason: string }
  /** Denied by policy or a person, or timed out. `final`: the run ends with `stop`; otherwise the refusal goes back to the planner. */
  | { status: 'refused'; final: boolean; stop: Stop }
  | { status: 'stopped'; stop: Stop };

export interface VerifyInput extends RunRef {
  /** Mail that names an open request: only verified results change the run. `token` null = unusable as a token. */
  messages: { pending_id: string; signal: 'approval_granted' | 'approval_denied'; token: string | null }[];
  /** The run's open requests, all of which are answered. */
  open: string[];
}

/** Where a request stands by the ledger. */
export type RequestState =
  | { pending_id: string; status: 'open'; missing: number; quorum: number; remaining_ms: number }
  | { pending_id: string; status: 'approved'; tokens: string[] }
  | { pending_id: string; status: 'refused'; final: boolean; stop: Stop }
  | { pending_id: string; status: 'superseded' };

export interface VerifyResult {
  requests: RequestState[];
}

export interface CloseRequestInput extends RunRef {
  pending_id: string;
  /** `deadline`: the timer fired. `cancelled`: the run ends or was cancelled; the request is closed whatever was decided. */
  why: 'deadline' | 'cancelled';
  /** For `cancelled`: what ended the run. */
  detail?: string;
}

export interface CloseRunInput extends RunRef {
  stop: Stop;
}
export interface CloseRunResult {
  usage: Usage;
  /** How the ledger says that the run ended, when that was recorded before. */
  ended?: Stop;
}

/** What a run has used so far. */
export interface Usage {
  steps: number;
  tool_calls: number;
  /** Time in planner and tools; waiting for people is not counted. */
  active_seconds: number;
  usd: number;
}

/** One line per call, the last 20, in the `state` query and the API. */
export interface CallSummary {
  call_id: string;
  tool: string;
  status: 'executed' | 'ready' | 'waiting' | 'invalid' | 'refused' | 'stopped' | 'running';
  result?: 'ok' | 'error';
  reason?: string;
}

/** Answer to the query `state`, and body of `GET /v1/runs/{run_id}`. */
export interface RunState {
  run_id: string;
  status: 'running' | 'waiting' | 'stopped';
  /** `approval_required` while the run waits, null while it works. */
  stop_reason: StopReason | 'approval_required' | null;
  reason?: string;
  pending: PendingView[];
  calls: CallSummary[];
  usage: Usage;
}

/** Result of the workflow. */
export interface RunResult extends Stop {
  run_id: string;
  status: 'stopped';
  usage: Usage;
}

/** The activities that the workflow calls. Implemented by `activities/`. */
export interface AgentActivities {
  openRun(input: OpenRunInput): Promise<OpenRunResult>;
  planNextStep(input: PlanInput): Promise<PlanResult>;
  callTool(input: CallInput): Promise<CallResult>;
  verifyDecisions(input: VerifyInput): Promise<VerifyResult>;
  closeRequest(input: CloseRequestInput): Promise<RequestState>;
  closeRun(input: CloseRunInput): Promise<CloseRunResult>;
}
