/** Decides: authorises, signs and commits in one transaction under the run's lock. Delivery comes after the commit. */
import type { RequestRow } from '../activities/ports.ts';
import { appendAudit, type ChainHead, ledgerNow, lockHead } from '../adapters/chain.ts';
import { type Client, transaction } from '../adapters/database.ts';
import { newId } from '../adapters/ids.ts';
import type { TokenSigner } from '../adapters/tokens.ts';
import type { DecisionAnswer } from '../client/types.ts';
import { type ApprovalEvent, type ApprovalRefusal, canDecide, type CommittedVote, decideApproval, missingVotes } from '../core/approval.ts';
import { auditFacts } from '../core/audit.ts';
import { assertNever, HoldpointError } from '../core/errors.ts';
import type { DecisionOutcome } from '../core/words.ts';
import type { Principal, ServerContext } from './ports.ts';
import { type CountedVote, requiredQuorums, trueArguments, votesOn, voteView } from './requests.ts';

/** A decision that Temporal has to be told. */
export interface DecisionToDeliver {
  decision_id: string;
  run_id: string;
  pending_id: string;
  outcome: DecisionOutcome;
  token: string;
}

export interface Decided {
  answer: DecisionAnswer;
  /** Undefined when nothing new was recorded. */
  toDeliver?: DecisionToDeliver;
}

interface Asked {
  principal: Principal;
  pending_id: string;
  outcome: DecisionOutcome;
  reason: string | undefined;
}

/**
 * Records one person's decision, or answers why it changes nothing.
 *
 * @throws HoldpointError `not_found`, `not_eligible`, `decision_conflict` (`details.first`), `request_closed`,
 *   `decision_late`, `args_mismatch`
 */
export async function decide(context: ServerContext, signer: TokenSigner, asked: Asked): Promise<Decided> {
  const { rows } = await context.pool.query<{ run_id: string }>('SELECT run_id FROM approval_requests WHERE pending_id = $1', [asked.pending_id]);
  const runId = rows[0]?.run_id;
  if (runId === undefined) throw new HoldpointError('not_found', `there is no approval request ${asked.pending_id}`, { hint: 'holdpoint pending' });
  return transaction(context.pool, async (client) => {
    const head = await lockHead(client, runId);
    const request = await lockRequest(client, asked.pending_id);
    // Read after both locks: whoever waited for them does not get a time from before.
    const now = await ledgerNow(client);
    await refuseIneligible(client, asked, request);
    const votes = (await votesOn(client, [request])).get(request.pending_id) ?? [];
    const quorum = (await requiredQuorums(client, context.policy, [request], now)).get(request.pending_id) ?? request.quorum;
    const vote: CommittedVote = { decision_id: newId('dec'), approver: asked.principal.principal, outcome: asked.outcome };
    const events = decideApproval({ type: 'decide', vote }, stateOf(request, votes, vote.approver, quorum), now);
    if (!Array.isArray(events)) return { answer: refusalAnswer(events, request, votes, quorum) };
    return recordDecision({ client, head, request, signer, now, votes, quorum }, vote, eventOf(events), asked.reason ?? null);
  });
}

async function lockRequest(client: Client, pendingId: string): Promise<RequestRow> {
  const { rows } = await client.query<RequestRow>('SELECT * FROM approval_requests WHERE pending_id = $1 FOR UPDATE', [pendingId]);
  if (rows[0]) return rows[0];
  throw new HoldpointError('not_found', `there is no approval request ${pendingId}`);
}

/** Asks the database again: rights that were taken away while somebody waited for the lock are gone. */
async function refuseIneligible(client: Client, asked: Asked, request: RequestRow): Promise<void> {
  const { principal } = asked.principal;
  const { rows } = await client.query<{ roles: string[] }>('SELECT roles FROM approvers WHERE principal = $1 AND active', [principal]);
  const eligible = rows[0] ? canDecide({ principal, roles: rows[0].roles }, request) : { ok: false as const, reason: 'this principal is not active' };
  if (!eligible.ok) throw new HoldpointError('not_eligible', `${principal} cannot decide ${request.pending_id}: ${eligible.reason}`);
}

/** Votes that count, and the approver's own whether it does or not: one person speaks once. */
function stateOf(request: RequestRow, votes: readonly CountedVote[], approver: string, quorum: number): Parameters<typeof decideApproval>[1] {
  const heard = votes.filter((vote) => vote.counts || vote.approver === approver);
  return request.status === 'open' ? { status: 'open', quorum, expiresAt: request.expires_at, votes: heard } : { status: request.status, votes: heard };
}

function refusalAnswer(refusal: ApprovalRefusal, request: RequestRow, votes: readonly CountedVote[], quorum: number): DecisionAnswer {
  const recorded = votes.find((vote) => vote.decision_id === refusal.first?.decision_id);
  const first = recorded && voteView(recorded);
  const ids = { pending_id: request.pending_id, run_id: request.run_id };
  switch (refusal.refused) {
    case 'already_decided':
      if (!first) throw new HoldpointError('internal', `the decision on ${request.pending_id} that was recorded before is not there`);
      return {
        status: 'already_decided',
        decision: first,
        ...ids,
        missing: missingVotes(
          votes.filter((vote) => vote.counts),
          quorum,
        ),
      };
    case 'decision_conflict':
      throw new HoldpointError('decision_conflict', `${request.pending_id} was ${first?.outcome ?? 'decided'} by ${first?.approver ?? 'somebody'} before`, {
        details: { ...ids, status: request.status, first: first ?? null },
      });
    case 'decision_late':
      throw new HoldpointError('decision_late', `the time to decide ${request.pending_id} ended at ${request.expires_at.toISOString()}`, {
        details: { ...ids, status: request.status, expires_at: request.expires_at.toISOString() },
      });
    case 'request_closed':
    case 'too_early':
      throw new HoldpointError('request_closed', `${request.pending_id} is closed: ${request.status}`, { details: { ...ids, status: request.status } });
    default:
      return assertNever(refusal.refused, 'refusal');
  }
}

type DecisionEvent = Extract<ApprovalEvent, { vote: CommittedVote }>;

function eventOf(events: readonly ApprovalEvent[]): DecisionEvent {
  const [event] = events;
  if (event && 'vote' in event) return event;
  throw new HoldpointError('internal', `a decision became ${event?.type ?? 'nothing'}`);
}

interface Recording {
  client: Client;
  head: ChainHead;
  request: RequestRow;
  signer: TokenSigner;
  now: Date;
  votes: readonly CountedVote[];
  quorum: number;
}

async function recordDecision(recording: Recording, vote: CommittedVote, event: DecisionEvent, reason: string | null): Promise<Decided> {
  const { client, head, request, now, votes, quorum } = recording;
  const token = await signDecision(recording, vote);
  await client.query(
    `INSERT INTO decisions (decision_id, pending_id, run_id, approver, outcome, reason, token, decided_at) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`,
    [vote.decision_id, request.pending_id, request.run_id, vote.approver, vote.outcome, reason, token, now],
  );
  if (event.type !== 'vote_recorded') await resolveRequest(client, request, event.type, now);
  const facts = auditFacts({
    event_key: `${request.first_execution_id}/${request.call_id}/${event.type}/${vote.decision_id}`,
    outcome: event.type,
    agent: request.agent,
    owner: request.owner,
    requester: request.requester,
    tool: request.tool,
    tool_hash: request.tool_hash,
    call_id: request.call_id,
    pending_id: request.pending_id,
    reason,
    rule: request.rule,
    tier: request.tier,
    policy_hash: request.policy_hash,
    args_hash: request.args_hash,
    approver: vote.approver,
    token,
  });
  await appendAudit(client, head, facts, now);
  const counted = [...votes.filter((other) => other.counts), vote];
  return {
    answer: {
      status: event.type === 'vote_recorded' ? 'quorum_pending' : 'accepted',
      decision: voteView({ ...vote, reason, decided_at: now }),
      pending_id: request.pending_id,
      run_id: request.run_id,
      missing: missingVotes(counted, quorum),
    },
    toDeliver: { decision_id: vote.decision_id, run_id: request.run_id, pending_id: request.pending_id, outcome: vote.outcome, token },
  };
}

async function resolveRequest(client: Client, request: RequestRow, resolution: 'approval_granted' | 'approval_denied', now: Date): Promise<void> {
  const granted = resolution === 'approval_granted';
  const usableUntil = granted ? new Date(now.getTime() + request.execute_within_seconds * 1000) : null;
  await client.query('UPDATE approval_requests SET status = $2, resolved_at = $3, usable_until = $4 WHERE pending_id = $1', [
    request.pending_id,
    granted ? 'approved' : 'denied',
    now,
    usableUntil,
  ]);
}

/** Signs what is shown: the arguments are hashed again, and another hash signs nothing. */
async function signDecision({ client, request, signer, now }: Recording, vote: CommittedVote): Promise<string> {
  if (!(await trueArguments(client, request))) {
    throw new HoldpointError('args_mismatch', `the stored arguments of ${request.pending_id} are not the ones it was made for: nothing was signed`, {
      details: { pending_id: request.pending_id, run_id: request.run_id, args_hash: request.args_hash },
      hint: 'somebody changed the ledger: run holdpoint audit verify',
    });
  }
  return signer.sign({
    sub: vote.approver,
    jti: vote.decision_id,
    iat: Math.floor(now.getTime() / 1000),
    exp: request.token_exp,
    run_id: request.run_id,
    pending_id: request.pending_id,
    call_id: request.call_id,
    tool: request.tool,
    tool_hash: request.tool_hash,
    args_hash: request.args_hash,
    policy_hash: request.policy_hash,
    outcome: vote.outcome,
    decided_at: now.toISOString(),
  });
}
