/** What the outside must provide to the gateway. Implemented in `adapters/`. */
import type { AuditFacts } from '../core/audit.ts';
import type { ApprovalClaims, PolicyFile, RunFile } from '../core/contracts.ts';
import type { Conditions } from '../core/policy-facts.ts';
import type { Stop, Usage } from '../core/run-contract.ts';
import type { RequestStatus } from '../core/words.ts';
import type { PlannerInput, ToolContext } from './define.ts';

/** A tool as the gateway uses it. */
export interface RegisteredTool {
  readonly name: string;
  readonly kind: 'read' | 'write';
  readonly idempotent: boolean;
  /** What its definition says; the policy file may say otherwise. */
  readonly tier: string | undefined;
  /** `sha256:` of the canonical form of `{name, kind, idempotent, input JSON Schema, version}`. */
  readonly tool_hash: string;
  readonly timeoutMs: number;
  /** Parses once: the value that comes out is hashed, shown, stored and executed. */
  parse(args: unknown): { ok: true; value: unknown } | { ok: false; problem: string };
  /** One line; never throws. */
  preview(args: unknown): string;
  execute(args: unknown, context: ToolContext): Promise<unknown>;
}

export interface Tools {
  /** Own names only: `constructor` is no tool. */
  get(name: string): RegisteredTool | undefined;
  list(): readonly RegisteredTool[];
}

export interface Planners {
  /** The planner for a run. Throws HoldpointError `invalid_run` for an unknown module planner. */
  plan(planner: RunFile['planner'], step: number, input: PlannerInput): Promise<unknown>;
}

/** The policy in force. */
export interface LoadedPolicy {
  readonly policy: PolicyFile;
  readonly policy_hash: string;
  /** Its conditions, parsed and planned once. */
  readonly conditions: Conditions;
}
export interface PolicySource {
  current(): LoadedPolicy;
}

export interface Hashing {
  /** RFC 8785. Throws on what has no canonical form (lone surrogates, non-finite numbers, integers beyond 2^53). */
  canonical(value: unknown): string;
  /** `sha256:` + hex of the UTF-8 bytes. */
  sha256(text: string): string;
  hashJson(value: unknown): string;
  /** Hash of `{tool, args}`. */
  argsHash(tool: string, args: unknown): string;
}

export interface TokenVerifier {
  /** Checks signature, `alg`, `typ`, pinned `kid`, issuer, audience and shape. Expiry and binding are the gateway's to check. Never throws. */
  verify(token: string): Promise<{ ok: true; claims: ApprovalClaims } | { ok: false; reason: string }>;
}

export interface RunRow {
  agent: string;
  owner: string | null;
  requester: string | null;
  registered: boolean;
  goal: string;
  ttl_seconds: number | null;
  stop: Stop | null;
  usage: Usage;
  /** Number of the planner's newest attempt: no other may end the run. */
  plans: number;
}

export interface CallRow {
  call_id: string;
  step: number;
  position: number;
  tool: string;
  kind: 'read' | 'write';
  tool_hash: string;
  args_hash: string;
  reason: string | null;
  status: 'ready' | 'waiting' | 'executing' | 'done' | 'refused' | 'stopped';
  pending_id: string | null;
  fence: number;
  result_status: 'ok' | 'error' | 'unknown' | null;
  result: string | null;
  result_sha256: string | null;
  result_bytes: number | null;
  stop: Stop | null;
  final: boolean | null;
}

export interface RequestRow {
  pending_id: string;
  run_id: string;
  first_execution_id: string;
  call_id: string;
  tool: string;
  kind: 'read' | 'write';
  /** Of the tool as it was shown: conditions may look at it. */
  idempotent: boolean;
  /** As the tool's definition said when it was shown. */
  tool_tier: string | null;
  tool_hash: string;
  args_hash: string;
  preview: string;
  agent_reason: string | null;
  reason: string;
  rule: string;
  tier: string;
  policy_hash: string;
  agent: string;
  owner: string | null;
  requester: string | null;
  quorum: number;
  ttl_seconds: number;
  execute_within_seconds: number;
  status: RequestStatus;
  created_at: Date;
  expires_at: Date;
  token_exp: number;
  resolved_at: Date | null;
  usable_until: Date | null;
  rejected: number;
}

export interface DecisionRow {
  decision_id: string;
  pending_id: string;
  run_id: string;
  approver: string;
  outcome: 'approved' | 'denied';
  reason: string | null;
  token: string;
  decided_at: Date;
}

export type VoteRow = DecisionRow & {
  /** Of the voter; null when they may not decide any more. */
  readonly roles: readonly string[] | null;
  /** Idempotency key of the call that used this vote. */
  readonly used_by: string | null;
};

export type NewRequest = Omit<RequestRow, 'run_id' | 'first_execution_id' | 'status' | 'resolved_at' | 'usable_until' | 'rejected'>;

/** Ledger of one run, inside one transaction that holds the run's lock: nothing else happens to this run meanwhile. */
export interface RunLedger {
  readonly run_id: string;
  readonly first_execution_id: string;
  /** `clock_timestamp()` in milliseconds, read after the last lock that somebody else may have held for long. */
  now(): Date;
  run(): Promise<RunRow | undefined>;
  /** The API's row for this run, whichever execution it is bound to. */
  registration(): Promise<{ first_execution_id: string | null; agent: string; owner: string; requester: string; input: unknown } | undefined>;
  insertRun(row: Omit<RunRow, 'stop' | 'usage' | 'plans'>, input: RunFile): Promise<void>;
  /** The run file. Apart from {@link RunLedger.run} because a script may be large. */
  runFile(): Promise<RunFile>;
  stopRun(stop: Stop): Promise<void>;
  /** Adds to the run's counters; negative numbers release. */
  addUsage(delta: { steps?: number; tool_calls?: number; active_ms?: number; usd?: number }): Promise<void>;
  /** Counts an attempt of the planner. @returns its number */
  beginPlan(): Promise<number>;
  step(step: number): Promise<boolean>;
  insertStep(step: number): Promise<void>;
  settleStep(step: number, used: { usd: number; active_ms: number }): Promise<void>;

  call(call_id: string): Promise<CallRow | undefined>;
  /** @param toolCalls what it takes of the run's budget */
  insertCall(
    row: Pick<CallRow, 'call_id' | 'step' | 'position' | 'tool' | 'kind' | 'tool_hash' | 'args_hash' | 'reason' | 'status'>,
    toolCalls: 0 | 1,
  ): Promise<void>;
  /** @param activeMs time that the tool took, for the run's budget */
  updateCall(call_id: string, change: Partial<Omit<CallRow, 'call_id' | 'step' | 'position'>>, activeMs?: number): Promise<void>;
  /** Calls of this run refused before with the same hash, and final or not. */
  countRefused(args_hash: string): Promise<number>;
  /** The latest time at which a request of an earlier call of the step was closed. */
  siblingsClosedAt(step: number, position: number): Promise<Date | null>;

  arguments(args_hash: string): Promise<string | undefined>;
  insertArguments(args_hash: string, tool: string, canonical: string): Promise<void>;

  request(pending_id: string): Promise<RequestRow | undefined>;
  /** Makes a request, and lets its call wait for it. */
  insertRequest(row: NewRequest): Promise<void>;
  updateRequest(pending_id: string, change: Partial<Pick<RequestRow, 'status' | 'quorum' | 'resolved_at' | 'usable_until' | 'rejected'>>): Promise<void>;
  openRequests(): Promise<RequestRow[]>;
  /** Oldest first. */
  votes(pending_id: string): Promise<VoteRow[]>;
  /** Notes that this call uses the decision. Nothing is committed when it was used before. */
  consume(decision_id: string, idempotency_key: string): Promise<void>;

  /** Takes part in the kill switch: from here to the commit no `kill on` returns, and none that returned before is missed. */
  engagedControl(agent: string, tool?: string): Promise<EngagedControl | undefined>;

  /** Appends to the run's chain. Does nothing when an event with this key is there. */
  append(facts: AuditFacts): Promise<void>;
}

/** A finished call as the planner sees it; `canonical` are its arguments, null when they were erased or unreadable. */
export interface TranscriptRow extends Pick<CallRow, 'call_id' | 'tool' | 'status' | 'stop' | 'result'> {
  canonical: string | null;
}

/** A switch that is thrown. */
export interface EngagedControl {
  readonly scope: string;
  readonly reason: string | null;
}

/** What the ledger holds about a call when its transaction begins. */
export interface FoundCall {
  readonly run: RunRow | undefined;
  readonly call: CallRow | undefined;
  /** The request that the call waits or waited for, the votes on it, oldest first, and the call's stored arguments. */
  readonly waiting: { readonly request: RequestRow; readonly votes: readonly VoteRow[]; readonly canonical: string | undefined } | undefined;
  /** As {@link RunLedger.engagedControl}: until the commit no `kill on` returns. Undefined when no tool was named. */
  readonly engaged: EngagedControl | undefined;
}

export interface Ledger {
  /**
   * Like {@link Ledger.withRun}, with all that a call is judged by, read under the run's lock in one round trip.
   *
   * @param call `tool` absent: the call is not to be judged, neither the kill switch nor its request is looked at
   */
  withCall<T>(
    run: { run_id: string; first_execution_id: string },
    call: { call_id: string; tool?: string },
    work: (ledger: RunLedger, found: FoundCall) => Promise<T>,
  ): Promise<T>;
  /** Runs `work` in one transaction under the run's lock. Everything or nothing. */
  withRun<T>(run: { run_id: string; first_execution_id: string }, work: (ledger: RunLedger) => Promise<T>): Promise<T>;
  /** The newest 500 finished calls of a run in order, with arguments and the first 64 KB of each result, for the planner. No lock. */
  transcript(run: { run_id: string; first_execution_id: string }): Promise<TranscriptRow[]>;
}

/** What Temporal itself knows of a workflow execution. */
export interface Executions {
  /** First execution id of the chain that this execution belongs to; undefined when there is no such execution. */
  firstOf(execution: { workflow_id: string; execution_id: string }): Promise<string | undefined>;
}

/** All that the gateway needs from outside. */
export interface GatewayPorts {
  readonly ledger: Ledger;
  readonly tools: Tools;
  readonly planners: Planners;
  readonly policy: PolicySource;
  readonly tokens: TokenVerifier;
  readonly hashing: Hashing;
  readonly newId: (prefix: 'run' | 'apr' | 'dec') => string;
  /** False: the namespace lacks our search attributes, runs leave them out. */
  readonly searchAttributes: boolean;
}
