/** A call that waits, asked about again: with tokens after a decision, without them after a change of policy or controls. */
import type { CallResult } from '../core/run-contract.ts';
import { missingVotes } from '../core/approval.ts';
import { type Admission, answer, type CallContext, callFacts, eventKey, idempotencyKey, type Proposal, stopOf } from './call-context.ts';
import { judge } from './judge.ts';
import { claimCall, denyCall, stopCall, tokenArgument } from './outcomes.ts';
import type { CallRow, RequestRow, VoteRow } from './ports.ts';
import { isClosed, refuseForRequest, reopenRequest, waitingAnswer, withdrawFor } from './requests.ts';
import { decisionOf, mayStillDecide, recordRejection } from './tokens.ts';

export async function resumeWaiting(ctx: CallContext, proposal: Proposal, known: CallRow): Promise<Admission | { type: 'superseded'; request: RequestRow }> {
  const { ledger, loaded } = ctx;
  const { request, votes = [], canonical } = ctx.found.waiting ?? {};
  if (!request) return answer({ status: 'stopped', stop: stopOf('policy_denied', `the request of call ${known.call_id} is not in the ledger`, known) });
  if (isClosed(request)) return answer(await refuseForRequest(ledger, loaded, request));
  if (request.status === 'superseded' || proposal.tool.tool_hash !== request.tool_hash) return { type: 'superseded', request };

  const verdict = judge(ctx, proposal, true);
  if (verdict.outcome === 'stop') {
    await withdrawFor(ctx, known, verdict.stop.stop_reason, verdict.stop.reason);
    return answer(await stopCall(ctx, proposal, verdict.stop));
  }
  if (verdict.outcome === 'deny') {
    await withdrawFor(ctx, known, 'policy_denied', verdict.reason);
    return answer(await denyCall(ctx, proposal, verdict, true));
  }
  const expired = request.status === 'approved' ? await expiredUnused(ctx, known, request) : undefined;
  if (expired) return answer(expired);
  const granted = await grantedBy(ctx, request, votes, Math.max(request.quorum, verdict.outcome === 'approval_required' ? verdict.quorum : 1));
  if (!granted) return answer(await waitingAnswer(ledger, request.pending_id));
  const approved = approvedArguments(ctx, known, request, canonical);
  if (approved === undefined) return answer(await refuseAltered(ctx, known, request));
  if (ctx.input.mode === 'evaluate') return answer({ status: 'ready', args_hash: known.args_hash });
  return executeGranted(ctx, { ...proposal, value: approved.value }, known, request, granted);
}

/** The votes that let this call through, or undefined while it has to wait. Tokens that count for nothing are recorded. */
async function grantedBy(ctx: CallContext, request: RequestRow, committed: readonly VoteRow[], quorum: number): Promise<VoteRow[] | undefined> {
  const { ledger } = ctx;
  const proven = new Map<string, VoteRow>();
  for (const token of ctx.tokens) {
    const result = decisionOf(request, committed, token, 'approved', ledger.now());
    if ('decision' in result) proven.set(result.decision.approver, result.decision);
    else await recordRejection(ledger, request, result.problem, 'a token in approval_granted');
  }
  if (request.status !== 'approved') return undefined;
  if (proven.size >= quorum) return [...proven.values()];
  // The ledger's own votes tell whether more are needed; junk beside a good decision must not open what is granted.
  const counting = committed.filter((vote) => mayStillDecide(vote, request));
  const missing = missingVotes(counting, quorum);
  if (missing > 0) await reopenRequest(ledger, request, quorum, `${missing} of ${quorum} votes are missing now`);
  return undefined;
}

async function expiredUnused(ctx: CallContext, known: CallRow, request: RequestRow): Promise<CallResult | undefined> {
  const { ledger } = ctx;
  const siblings = known.position === 1 ? null : await ledger.siblingsClosedAt(known.step, known.position);
  const resolved = Math.max(request.resolved_at?.getTime() ?? 0, siblings?.getTime() ?? 0);
  const usableUntil = new Date(resolved + request.execute_within_seconds * 1000);
  const now = ledger.now();
  if (now <= usableUntil && now.getTime() < request.token_exp * 1000) return undefined;
  const stop = stopOf('approval_expired_unused', `the approval of ${request.tool} was not used until ${usableUntil.toISOString()}`, known, request.rule);
  await ledger.updateCall(known.call_id, { status: 'stopped', stop, final: true });
  await recordDeny(ctx, known, request, 'approval_expired_unused', stop.reason);
  return { status: 'stopped', stop };
}

/** What runs is what the ledger holds, and only when that is still what was approved. */
export function approvedArguments(ctx: CallContext, known: CallRow, request: RequestRow, canonical: string | undefined): { value: unknown } | undefined {
  if (canonical === undefined || request.args_hash !== known.args_hash) return undefined;
  try {
    const value: unknown = JSON.parse(canonical);
    return ctx.ports.hashing.argsHash(known.tool, value) === known.args_hash ? { value } : undefined;
  } catch {
    return undefined;
  }
}

export async function refuseAltered(ctx: CallContext, known: CallRow, request: RequestRow): Promise<CallResult> {
  const stop = stopOf('policy_denied', `the arguments that the ledger holds for call ${known.call_id} are not the approved ones`, known, 'call_conflict');
  await ctx.ledger.updateCall(known.call_id, { status: 'refused', stop, final: true });
  await recordDeny(ctx, known, request, 'call_conflict', stop.reason);
  return { status: 'refused', final: true, stop };
}

async function recordDeny(ctx: CallContext, known: CallRow, request: RequestRow, reason: string, detail: string): Promise<void> {
  await ctx.ledger.append({
    ...callFacts(ctx, known, { reason, rule: request.rule, tier: request.tier, pending_id: request.pending_id, detail }),
    event_key: eventKey(ctx.ledger, known.call_id, `deny/${reason}`),
    outcome: 'deny',
  });
}

async function executeGranted(ctx: CallContext, proposal: Proposal, known: CallRow, request: RequestRow, granted: readonly VoteRow[]): Promise<Admission> {
  const { ledger } = ctx;
  const key = idempotencyKey(ledger, known.call_id);
  // Only this run's calls use the votes on its requests, under its lock: what was free when the lock was taken is free.
  const used = granted.find(({ used_by }) => used_by !== null && used_by !== key);
  if (used) {
    await recordRejection(ledger, request, 'consumed', `decision ${used.decision_id} was used by another call`);
    return answer(await waitingAnswer(ledger, request.pending_id));
  }
  for (const { decision_id, used_by } of granted) if (used_by === null) await ledger.consume(decision_id, key);
  const claim = await claimCall(ctx, proposal, known.fence, {
    rule: request.rule,
    tier: request.tier,
    reason: 'approved',
    pending_id: request.pending_id,
    approver: granted.map((decision) => decision.approver).join(', '),
    token: tokenArgument(granted.map((decision) => decision.token)),
  });
  return { type: 'execute', claim };
}
