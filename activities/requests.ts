/** The life of an approval request as the gateway writes it. Each function runs inside the run's transaction. */
import { decideApproval, resolutionOf } from '../core/approval.ts';
import type { CallResult, RequestState, Stop } from '../core/run-contract.ts';
import { storableText } from '../core/text.ts';
import { LIMITS } from '../core/words.ts';
import { type CallContext, callFacts, eventKey, pendingView, type Proposal, refuseCall, requestFacts, stopOf } from './call-context.ts';
import { type Books, requiredQuorum, type Rule } from './judge.ts';
import type { CallRow, LoadedPolicy, NewRequest, RequestRow, RunLedger, RunRow, VoteRow } from './ports.ts';
import { mayStillDecide } from './tokens.ts';

/** Makes the request of a call whose row is there: inbox row and audit event, once. */
export async function createRequest(ctx: CallContext, proposal: Proposal, rule: Rule): Promise<CallResult> {
  const { ledger, run, input, loaded } = ctx;
  const createdAt = ledger.now();
  const ttl = Math.min(rule.ttl_seconds, run.ttl_seconds ?? rule.ttl_seconds);
  const executeWithin = loaded.policy.approvals.execute_within_seconds;
  const expiresAt = new Date(createdAt.getTime() + ttl * 1000);
  const pendingId = ctx.ports.newId('apr');
  const request: NewRequest = {
    pending_id: pendingId,
    call_id: input.call_id,
    tool: proposal.tool.name,
    kind: proposal.tool.kind,
    idempotent: proposal.tool.idempotent,
    tool_tier: proposal.tool.tier ?? null,
    tool_hash: proposal.tool.tool_hash,
    args_hash: proposal.args_hash,
    preview: storableText(proposal.tool.preview(proposal.value)),
    agent_reason: input.reason?.slice(0, LIMITS.text) ?? null,
    reason: rule.reason,
    rule: rule.rule,
    tier: rule.tier,
    policy_hash: loaded.policy_hash,
    agent: run.agent,
    owner: run.owner,
    requester: run.requester,
    quorum: rule.quorum,
    ttl_seconds: ttl,
    execute_within_seconds: executeWithin,
    created_at: createdAt,
    expires_at: expiresAt,
    token_exp: Math.ceil(expiresAt.getTime() / 1000) + executeWithin,
  };
  await ledger.insertRequest(request);
  await ledger.append({
    ...callFacts(
      ctx,
      { tool: proposal.tool.name, tool_hash: proposal.tool.tool_hash, args_hash: proposal.args_hash },
      {
        pending_id: pendingId,
        rule: rule.rule,
        tier: rule.tier,
        reason: 'pending_human_review',
        detail: rule.reason,
      },
    ),
    event_key: eventKey(ledger, input.call_id, `approval_required/${pendingId}`),
    outcome: 'approval_required',
  });
  return { status: 'waiting', request: pendingView(request, [], createdAt) };
}

export async function waitingAnswer(ledger: RunLedger, pendingId: string): Promise<CallResult> {
  const request = await ledger.request(pendingId);
  if (!request) throw new Error(`request ${pendingId} is gone`);
  const view = pendingView(request, await ledger.votes(pendingId), ledger.now());
  // A grant that cannot be used yet (its key is not trusted here, say) is asked about again, but not in a hot loop.
  return { status: 'waiting', request: { ...view, remaining_ms: Math.max(view.remaining_ms, request.status === 'approved' ? RETRY_GRANT_MS : 0) } };
}

const RETRY_GRANT_MS = 5_000;

/** Committed votes of people who may still decide. */
export async function countingVotes(ledger: RunLedger, request: RequestRow): Promise<VoteRow[]> {
  return (await ledger.votes(request.pending_id)).filter((vote) => mayStillDecide(vote, request));
}

/** Closes what is open as cancelled. Nothing happens to a request that is closed already. */
export async function cancelRequest(ledger: RunLedger, request: RequestRow, reason: string, detail: string): Promise<void> {
  const now = ledger.now();
  const events = decideApproval({ type: 'cancel' }, { status: request.status, votes: [], quorum: request.quorum, expiresAt: request.expires_at }, now);
  if (!Array.isArray(events)) return;
  await ledger.updateRequest(request.pending_id, { status: 'cancelled', resolved_at: now });
  await ledger.append({
    ...requestFacts(request),
    event_key: eventKey(ledger, request.call_id, `approval_cancelled/${request.pending_id}`),
    outcome: 'approval_cancelled',
    reason,
    detail,
  });
}

/** Voids a request because the tool is no longer the one that was shown. */
export async function supersedeRequest(ledger: RunLedger, request: RequestRow, toolHash: string): Promise<void> {
  const now = ledger.now();
  await ledger.updateRequest(request.pending_id, { status: 'superseded', resolved_at: now });
  await ledger.append({
    ...requestFacts(request),
    event_key: eventKey(ledger, request.call_id, `request_superseded/${request.pending_id}`),
    outcome: 'request_superseded',
    reason: 'tool_changed',
    detail: `the definition of ${request.tool} changed to ${toolHash}`,
  });
}

/** Opens an approved request again because more votes are needed than it has. The deadline stays. */
export async function reopenRequest(ledger: RunLedger, request: RequestRow, quorum: number, why: string): Promise<void> {
  if (request.status === 'open' && request.quorum === quorum) return;
  await ledger.updateRequest(request.pending_id, { status: 'open', quorum, resolved_at: null, usable_until: null });
  await ledger.append({
    ...requestFacts(request),
    event_key: eventKey(ledger, request.call_id, `approval_required/${request.pending_id}/${quorum}/${request.rejected}`),
    outcome: 'approval_required',
    reason: 'more_votes_needed',
    detail: why,
  });
}

/** Where a request stands by the ledger, with what that does to its call. */
export async function requestState(ledger: RunLedger, loaded: LoadedPolicy, pendingId: string): Promise<RequestState> {
  const request = await ledger.request(pendingId);
  if (!request) return unknownRequest(pendingId);
  const decisions = await ledger.votes(pendingId);
  switch (request.status) {
    case 'open': {
      const { missing, remaining_ms } = pendingView(request, decisions, ledger.now());
      return { pending_id: pendingId, status: 'open', missing, quorum: request.quorum, remaining_ms };
    }
    case 'approved':
      return {
        pending_id: pendingId,
        status: 'approved',
        tokens: (await countingVotes(ledger, request)).filter((vote) => vote.outcome === 'approved').map((vote) => vote.token),
      };
    case 'superseded':
      return { pending_id: pendingId, status: 'superseded' };
    case 'denied':
    case 'timed_out':
    case 'cancelled': {
      const refused = await refuseForRequest(ledger, loaded, request);
      return { pending_id: pendingId, ...refused };
    }
    default:
      return unknownRequest(pendingId);
  }
}

function unknownRequest(pendingId: string): RequestState {
  const stop: Stop = { stop_reason: 'policy_denied', reason: `the ledger has no request ${pendingId} of this run` };
  return { pending_id: pendingId, status: 'refused', final: true, stop };
}

/** The refusal that a closed request means for its call, recorded once. */
export async function refuseForRequest(ledger: RunLedger, loaded: LoadedPolicy, request: RequestRow): Promise<CallResult & { status: 'refused' }> {
  const call = await ledger.call(request.call_id);
  const stop = await stopForRequest(ledger, request);
  if (!call || call.pending_id !== request.pending_id) return { status: 'refused', final: true, stop };
  if (call.status !== 'waiting') return { status: 'refused', final: call.final ?? true, stop: call.stop ?? stop };
  return refuseCall(ledger, loaded, call, stop, true);
}

async function stopForRequest(ledger: RunLedger, request: RequestRow): Promise<Stop> {
  if (request.status === 'denied') {
    const denial = (await ledger.votes(request.pending_id)).find((vote) => vote.outcome === 'denied');
    const words = denial?.reason ? `: ${denial.reason}` : '';
    return stopOf('approval_denied', `${denial?.approver ?? 'an approver'} denied ${request.tool}${words}`, request, request.rule);
  }
  if (request.status === 'timed_out') {
    return stopOf('approval_timeout', `nobody approved ${request.tool} within ${request.ttl_seconds} s`, request, request.rule);
  }
  return stopOf('cancelled', `the request for ${request.tool} was closed: ${request.status}`, request, request.rule);
}

/**
 * The deadline as the ledger sees it: committed decisions that resolve the request by the policy in force are honoured,
 * an early timer is told how long is left, everything else is closed as timed out.
 */
export async function closeAtDeadline(books: Books, loaded: LoadedPolicy, run: RunRow, request: RequestRow): Promise<RequestState> {
  const { ledger } = books;
  const pendingId = request.pending_id;
  if (request.status !== 'open' && request.status !== 'approved') return requestState(ledger, loaded, pendingId);
  const votes = await countingVotes(ledger, request);
  const now = ledger.now();
  const quorum = await requiredQuorum(books, loaded, run, request);
  const events = decideApproval({ type: 'deadline' }, { status: 'open', votes, quorum, expiresAt: request.expires_at }, now);
  if (Array.isArray(events)) {
    await ledger.updateRequest(pendingId, { status: 'timed_out', resolved_at: now });
    await ledger.append({
      ...requestFacts(request),
      event_key: eventKey(ledger, request.call_id, `approval_timeout/${pendingId}`),
      outcome: 'approval_timeout',
      reason: 'approval_timeout',
      detail: `${votes.length} of ${quorum} votes after ${request.ttl_seconds} s`,
    });
  } else if (events.refused === 'too_early' && request.status === 'approved') {
    await reopenRequest(ledger, request, quorum, `the policy now asks for ${quorum} votes`);
  } else if (events.refused === 'already_decided' && request.status === 'open') {
    await grantLate(ledger, request, votes);
  }
  return requestState(ledger, loaded, pendingId);
}

/**
 * Grants what is complete only now: when the last vote came the policy asked for more, or another voter lacked the role.
 * No further vote is possible then, so without this the request would stay open for ever.
 */
async function grantLate(ledger: RunLedger, request: RequestRow, votes: readonly VoteRow[]): Promise<void> {
  const last = votes.at(-1);
  if (!last || resolutionOf(votes, 1) !== 'approved') return;
  const usableUntil = new Date(last.decided_at.getTime() + request.execute_within_seconds * 1000);
  await ledger.updateRequest(request.pending_id, { status: 'approved', resolved_at: last.decided_at, usable_until: usableUntil });
  await ledger.append({
    ...requestFacts(request),
    event_key: eventKey(ledger, request.call_id, `approval_granted/${last.decision_id}`),
    outcome: 'approval_granted',
    reason: last.reason,
    detail: 'complete by the policy in force at the deadline',
    approver: last.approver,
    token: last.token,
  });
}

/** True when nothing about this call is left to a person. */
export function isClosed(request: RequestRow): boolean {
  return request.status === 'denied' || request.status === 'timed_out' || request.status === 'cancelled';
}

/** Closes a waiting call's request because policy or the kill switch now stands against it. */
export async function withdrawFor(ctx: CallContext, call: CallRow, reason: string, detail: string): Promise<void> {
  const request = call.pending_id === null ? undefined : await ctx.ledger.request(call.pending_id);
  if (request) await cancelRequest(ctx.ledger, request, reason, detail);
}
