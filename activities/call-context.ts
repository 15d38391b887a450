/** What all steps of judging one call share, and the small answers they give. */
import { type AuditFacts, NO_FACTS } from '../core/audit.ts';
import { missingVotes } from '../core/approval.ts';
import type { CallInput, CallResult, PendingView, ResultSummary, Stop } from '../core/run-contract.ts';
import { LIMITS, type StopReason } from '../core/words.ts';
import type { CallRow, DecisionRow, FoundCall, GatewayPorts, LoadedPolicy, NewRequest, RegisteredTool, RequestRow, RunLedger, RunRow } from './ports.ts';
import type { ProvenToken } from './tokens.ts';

/** One `callTool`, inside the run's transaction. */
export interface CallContext {
  readonly ports: GatewayPorts;
  readonly ledger: RunLedger;
  readonly run: RunRow;
  readonly input: Omit<CallInput, 'first_execution_id'>;
  /** Read once per transaction, so that one call is judged by one policy. */
  readonly loaded: LoadedPolicy;
  readonly tokens: readonly ProvenToken[];
  /** What the ledger held when the transaction began. */
  readonly found: FoundCall;
}

/** A call whose tool exists and whose arguments fit, parsed once. */
export interface Proposal {
  readonly tool: RegisteredTool;
  readonly value: unknown;
  readonly canonical: string;
  readonly args_hash: string;
}

/** The right to execute once, won in the transaction that wrote it. */
export interface Claim {
  readonly tool: RegisteredTool;
  readonly args: unknown;
  readonly args_hash: string;
  readonly fence: number;
  readonly idempotency_key: string;
  readonly approval_token: string | undefined;
  /** What the audit says of this call. */
  readonly facts: Omit<AuditFacts, 'event_key' | 'outcome'>;
}

export type Admission = { type: 'answer'; result: CallResult } | { type: 'execute'; claim: Claim };

export const answer = (result: CallResult): Admission => ({ type: 'answer', result });

/** `run_id/first_execution_id/call_id`: survives resets and continue-as-new, and no two calls share it. */
export function idempotencyKey(ledger: RunLedger, callId: string): string {
  return `${ledger.run_id}/${ledger.first_execution_id}/${callId}`;
}

/** Audit keys start with the execution, since several executions may share a run's chain. */
export function eventKey(ledger: RunLedger, callId: string, phase: string): string {
  return `${ledger.first_execution_id}/${callId}/${phase}`;
}

export function runFacts(run: RunRow): Pick<AuditFacts, 'agent' | 'owner' | 'requester'> {
  return { agent: run.agent, owner: run.owner, requester: run.requester };
}

type CallFacts = Omit<AuditFacts, 'event_key' | 'outcome'>;

/** Facts of an event about a call. */
export function callFacts(
  ctx: CallContext,
  call: { tool: string; tool_hash: string | null; args_hash: string | null },
  more: Partial<CallFacts> = {},
): CallFacts {
  const { tool, tool_hash, args_hash } = call;
  return { ...NO_FACTS, ...runFacts(ctx.run), call_id: ctx.input.call_id, tool, tool_hash, args_hash, policy_hash: ctx.loaded.policy_hash, ...more };
}

/** Facts of an event about a request. */
export function requestFacts(request: RequestRow): CallFacts {
  const { agent, owner, requester, call_id, tool, tool_hash, args_hash, pending_id, rule, tier, policy_hash } = request;
  return { ...NO_FACTS, agent, owner, requester, call_id, tool, tool_hash, args_hash, pending_id, rule, tier, policy_hash };
}

export function stopOf(stopReason: StopReason, reason: string, about: { call_id: string; tool: string }, rule?: string): Stop {
  return { stop_reason: stopReason, reason, call_id: about.call_id, tool: about.tool, ...(rule === undefined ? {} : { rule }) };
}

/** True when a refusal ends the run: always with fallback `stop`, else after the same call was refused often enough. */
export async function isFinalRefusal(ledger: RunLedger, loaded: LoadedPolicy, argsHash: string): Promise<boolean> {
  const { fallback_when_not_approved: fallback, repeat_refusal_limit: limit } = loaded.policy.approvals;
  if (fallback !== 'continue') return true;
  return limit > 0 && (await ledger.countRefused(argsHash)) + 1 >= limit;
}

/** Ends a call by a refusal and gives its place in the budget back. */
export async function refuseCall(
  ledger: RunLedger,
  loaded: LoadedPolicy,
  call: { call_id: string; args_hash: string },
  stop: Stop,
  reserved: boolean,
): Promise<CallResult & { status: 'refused' }> {
  const final = await isFinalRefusal(ledger, loaded, call.args_hash);
  await ledger.updateCall(call.call_id, { status: 'refused', stop, final });
  if (reserved) await ledger.addUsage({ tool_calls: -1 });
  return { status: 'refused', final, stop };
}

export function summaryOf(call: Pick<CallRow, 'result' | 'result_bytes' | 'result_sha256' | 'result_status'>): ResultSummary {
  const text = call.result ?? '';
  return {
    status: call.result_status === 'ok' ? 'ok' : 'error',
    bytes: call.result_bytes ?? 0,
    sha256: call.result_sha256 ?? '',
    head: text.slice(0, LIMITS.resultHead),
  };
}

/** What an earlier attempt has settled already; undefined while something is left to do. */
export function settledAnswer(call: CallRow): CallResult | undefined {
  switch (call.status) {
    case 'done':
      return { status: 'executed', args_hash: call.args_hash, result: summaryOf(call) };
    case 'refused':
    case 'stopped': {
      const stop = call.stop ?? stopOf('policy_denied', 'the refusal of this call was recorded without a reason', call);
      if (stop.rule === 'unknown_tool' || stop.rule === 'invalid_arguments') return { status: 'invalid', code: stop.rule, reason: stop.reason };
      return call.status === 'stopped' ? { status: 'stopped', stop } : { status: 'refused', final: call.final ?? true, stop };
    }
    case 'ready':
    case 'waiting':
    case 'executing':
      return undefined;
    default:
      return { status: 'stopped', stop: stopOf('policy_denied', 'the record of this call has a status that this version does not know', call) };
  }
}

export function pendingView(request: NewRequest, decisions: readonly DecisionRow[], now: Date): PendingView {
  const { pending_id, call_id, tool, preview, reason, rule, tier, args_hash, quorum } = request;
  return {
    pending_id,
    call_id,
    tool,
    preview,
    reason,
    rule,
    tier,
    args_hash,
    quorum,
    missing: missingVotes(decisions, quorum),
    expires_at: request.expires_at.toISOString(),
    remaining_ms: Math.max(0, request.expires_at.getTime() - now.getTime()),
  };
}
