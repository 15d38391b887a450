/** Approval requests as the decision service reads them, and as people are shown them. */
import type { DecisionRow, PolicySource, RequestRow } from '../activities/ports.ts';
import { ledgerNow } from '../adapters/chain.ts';
import { type Client, type Pool, transaction } from '../adapters/database.ts';
import { argsHash } from '../adapters/hashing.ts';
import type { ApprovalView, Vote } from '../client/types.ts';
import { canDecide, missingVotes } from '../core/approval.ts';
import { HoldpointError } from '../core/errors.ts';
import { evaluatePolicy, votesNeeded } from '../core/policy.ts';
import { hasConditions, policyCall } from '../core/policy-facts.ts';
import type { Usage } from '../core/run-contract.ts';
import { LIMITS, type RequestStatus } from '../core/words.ts';
import { makeVisible } from '../core/visible.ts';

/** Shown instead of arguments that nobody may approve. */
export const ARGUMENTS_ALTERED = '[the stored arguments are not the ones that this request was made for: it cannot be decided]';

/** Votes that each request needs now: never fewer than when it was made, more when the policy in force asks for more. */
export async function requiredQuorums(client: Client, policy: PolicySource, requests: readonly RequestRow[], now: Date): Promise<Map<string, number>> {
  const loaded = policy.current();
  const details = hasConditions(loaded.policy) ? await detailsOf(client, requests) : new Map<string, RequestDetails>();
  return new Map(
    requests.map((request) => {
      const { canonical, goal, ...usage } = details.get(request.pending_id) ?? NO_DETAILS;
      const { agent, owner, requester, kind, idempotent, tool_tier } = request;
      const run = { registered: owner !== null, agent, owner, requester, goal, usage };
      const tool = { name: request.tool, kind, idempotent, tier: tool_tier ?? undefined };
      const args = canonical === null ? undefined : matching(canonical, request)?.value;
      const call = policyCall({ run_id: request.run_id, run, tool, args, reserved: true, now });
      return [request.pending_id, votesNeeded(evaluatePolicy(loaded.policy, call, loaded.conditions), request.quorum)];
    }),
  );
}

/** What only conditions look at. */
interface RequestDetails extends Usage {
  canonical: string | null;
  goal: string;
}

const NO_DETAILS: RequestDetails = { canonical: null, goal: '', steps: 0, tool_calls: 0, active_seconds: 0, usd: 0 };

async function detailsOf(client: Client, requests: readonly RequestRow[]): Promise<Map<string, RequestDetails>> {
  const sql = `SELECT a.pending_id, g.canonical, s.goal, s.steps, s.tool_calls, s.active_ms / 1000.0::float8 AS active_seconds, s.usd
    FROM approval_requests a JOIN run_states s USING (run_id, first_execution_id) LEFT JOIN arguments g USING (args_hash) WHERE a.pending_id = ANY($1)`;
  const { rows } = await client.query<RequestDetails & { pending_id: string }>(sql, [requests.map((request) => request.pending_id)]);
  return new Map(rows.map(({ pending_id, ...details }) => [pending_id, details]));
}

/** The stored arguments of a request, or undefined when they are gone or not those that were hashed. */
export async function trueArguments(client: Client, request: RequestRow): Promise<{ canonical: string; value: unknown } | undefined> {
  const { rows } = await client.query<{ canonical: string }>('SELECT canonical FROM arguments WHERE args_hash = $1', [request.args_hash]);
  return rows[0] && matching(rows[0].canonical, request);
}

/** The value of stored arguments, or undefined when they are not those that were hashed. */
export function matching(canonical: string, hashed: Pick<RequestRow, 'tool' | 'args_hash'>): { canonical: string; value: unknown } | undefined {
  try {
    const value: unknown = JSON.parse(canonical);
    return argsHash(hashed.tool, value) === hashed.args_hash ? { canonical, value } : undefined;
  } catch {
    return undefined;
  }
}

export type CountedVote = DecisionRow & { readonly counts: boolean };

/** All votes on a request. `counts`: its voter may still decide, as the gateway will ask again. */
export async function votesOn(client: Client, requests: readonly RequestRow[]): Promise<Map<string, CountedVote[]>> {
  const votes = new Map<string, CountedVote[]>(requests.map((request) => [request.pending_id, []]));
  const sql = `SELECT d.*, a.roles FROM decisions d LEFT JOIN approvers a ON a.principal = d.approver AND a.active
    WHERE d.pending_id = ANY($1) ORDER BY d.decided_at, d.decision_id`;
  const { rows } = await client.query<DecisionRow & { roles: string[] | null }>(sql, [requests.map((request) => request.pending_id)]);
  for (const { roles, ...vote } of rows) {
    const request = requests.find((one) => one.pending_id === vote.pending_id);
    if (!request) continue;
    const counts = roles !== null && canDecide({ principal: vote.approver, roles }, request).ok;
    votes.get(vote.pending_id)?.push({ ...vote, counts });
  }
  return votes;
}

export function voteView(vote: Pick<DecisionRow, 'decision_id' | 'approver' | 'outcome' | 'reason' | 'decided_at'>): Vote {
  const { decision_id, approver, outcome, reason, decided_at } = vote;
  return { decision_id, approver, outcome, reason, decided_at: decided_at.toISOString() };
}

export interface ApprovalFilter {
  status?: RequestStatus | undefined;
  run?: string | undefined;
  limit: number;
}

/** Requests, the most urgent first; closed ones by the same order. */
export async function listApprovals(pool: Pool, policy: PolicySource, filter: ApprovalFilter): Promise<ApprovalView[]> {
  return transaction(pool, async (client) => {
    // Spelled out for `open`, so that the partial index of open requests is used.
    const status = filter.status === 'open' ? `status = 'open' AND $1::text = 'open'` : '($1::text IS NULL OR status = $1)';
    const sql = `SELECT * FROM approval_requests WHERE ${status} AND ($2::text IS NULL OR run_id = $2) ORDER BY expires_at, pending_id LIMIT $3`;
    const { rows } = await client.query<RequestRow>(sql, [filter.status ?? null, filter.run ?? null, filter.limit]);
    return viewsOf(client, policy, rows);
  });
}

export async function getApproval(pool: Pool, policy: PolicySource, pendingId: string): Promise<ApprovalView> {
  return transaction(pool, async (client) => {
    const { rows } = await client.query<RequestRow>('SELECT * FROM approval_requests WHERE pending_id = $1', [pendingId]);
    const [view] = await viewsOf(client, policy, rows);
    if (!view) throw new HoldpointError('not_found', `there is no approval request ${pendingId}`, { hint: 'holdpoint pending' });
    return view;
  });
}

async function viewsOf(client: Client, policy: PolicySource, requests: readonly RequestRow[]): Promise<ApprovalView[]> {
  if (requests.length === 0) return [];
  const votes = await votesOn(client, requests);
  const sql = 'SELECT args_hash, canonical FROM arguments WHERE args_hash = ANY($1)';
  const stored = await client.query<{ args_hash: string; canonical: string }>(sql, [requests.map((request) => request.args_hash)]);
  const canonical = new Map(stored.rows.map((row) => [row.args_hash, row.canonical]));
  const now = await ledgerNow(client);
  const quorums = await requiredQuorums(client, policy, requests, now);
  return requests.map((request) => {
    const quorum = quorums.get(request.pending_id) ?? request.quorum;
    return viewOf(request, canonical.get(request.args_hash), votes.get(request.pending_id) ?? [], quorum, now);
  });
}

/** Longest indented form. Deep and wide arguments would become a hundred times as long by it, and a list holds many. */
const MAX_INDENTED = 4 * LIMITS.args;

function argsText(value: unknown): string {
  const indented = JSON.stringify(value, null, 2);
  return makeVisible(indented.length <= MAX_INDENTED ? indented : JSON.stringify(value));
}

function viewOf(request: RequestRow, canonical: string | undefined, votes: readonly CountedVote[], quorum: number, now: Date): ApprovalView {
  const { pending_id, run_id, call_id, status, tool, kind, args_hash, preview, reason, rule, tier, policy_hash, tool_hash, agent, owner, requester } = request;
  const args = canonical === undefined ? undefined : matching(canonical, request);
  return {
    pending_id,
    run_id,
    call_id,
    status,
    tool,
    kind,
    args_text: args ? argsText(args.value) : ARGUMENTS_ALTERED,
    args: args ? args.value : null,
    args_hash,
    args_bytes: args ? Buffer.byteLength(args.canonical, 'utf8') : 0,
    preview,
    reason,
    rule,
    tier,
    policy_hash,
    tool_hash,
    agent,
    owner,
    requester,
    agent_reason: request.agent_reason,
    quorum,
    missing: missingVotes(
      votes.filter((vote) => vote.counts),
      quorum,
    ),
    votes: votes.map(voteView),
    created_at: request.created_at.toISOString(),
    expires_at: request.expires_at.toISOString(),
    remaining_ms: Math.max(0, request.expires_at.getTime() - now.getTime()),
    usable_until: request.usable_until?.toISOString() ?? null,
  };
}
