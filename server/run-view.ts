/** Runs as the ledger shows them: what happened is here, whatever Temporal says or forgets. */
import type { CallRow, RequestRow } from '../activities/ports.ts';
import { ledgerNow } from '../adapters/chain.ts';
import { type Client, transaction } from '../adapters/database.ts';
import type { RunView } from '../client/types.ts';
import { missingVotes } from '../core/approval.ts';
import { assertNever, HoldpointError } from '../core/errors.ts';
import type { CallSummary, PendingView, RunState, Stop } from '../core/run-contract.ts';
import type { ServerContext } from './ports.ts';
import { type CountedVote, requiredQuorums, votesOn } from './requests.ts';

export interface RunHead {
  run_id: string;
  first_execution_id: string | null;
  agent: string;
  owner: string | null;
  requester: string | null;
  goal: string | null;
  created_at: Date;
  stop: Stop | null;
  stopped_at: Date | null;
  steps: number;
  tool_calls: number;
  active_ms: number;
  usd: number;
}

/**
 * Registered runs with the state of their own execution, and what ran without the API. The input of the latter is never
 * looked into: JSON can say what no text of the database holds, and one such run would be the end of every list.
 */
const RUNS = `
  SELECT r.run_id, r.first_execution_id, r.agent, r.owner, r.requester, coalesce(r.goal, s.goal) AS goal, r.created_at, s.stop, s.stopped_at,
    coalesce(s.steps, 0) AS steps, coalesce(s.tool_calls, 0) AS tool_calls, coalesce(s.active_ms, 0) AS active_ms, coalesce(s.usd, 0) AS usd
  FROM runs r LEFT JOIN run_states s ON s.run_id = r.run_id AND s.first_execution_id = r.first_execution_id
  UNION ALL
  SELECT s.run_id, s.first_execution_id, s.agent, s.owner, s.requester, s.goal, s.started_at, s.stop, s.stopped_at,
    s.steps, s.tool_calls, s.active_ms, s.usd
  FROM run_states s WHERE NOT s.registered AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.run_id = s.run_id)`;

const WAITS = `EXISTS (SELECT 1 FROM approval_requests a WHERE a.run_id = u.run_id AND a.first_execution_id = u.first_execution_id AND a.status = 'open')`;
const STATUS = { stopped: 'u.stop IS NOT NULL', waiting: `u.stop IS NULL AND ${WAITS}`, running: `u.stop IS NULL AND NOT ${WAITS}` } as const;

export async function getRun(context: ServerContext, runId: string): Promise<RunView> {
  const [view] = await readViews(context, 'WHERE u.run_id = $1 ORDER BY u.created_at DESC LIMIT 1', [runId]);
  if (view) return view;
  throw new HoldpointError('not_found', `there is no run ${runId}`);
}

/** Newest first. */
export async function listRuns(context: ServerContext, filter: { status?: RunState['status'] | undefined; limit: number }): Promise<RunView[]> {
  const where = filter.status === undefined ? '' : `WHERE ${STATUS[filter.status]}`;
  return readViews(context, `${where} ORDER BY u.created_at DESC, u.run_id LIMIT $1`, [filter.limit]);
}

async function readViews(context: ServerContext, tail: string, parameters: unknown[]): Promise<RunView[]> {
  return transaction(context.pool, async (client) => {
    const { rows } = await client.query<RunHead>(`SELECT u.* FROM (${RUNS}) u ${tail}`, parameters);
    const views: RunView[] = [];
    for (const run of rows) views.push(await viewOf(context, client, run));
    return views;
  });
}

async function viewOf(context: ServerContext, client: Client, run: RunHead): Promise<RunView> {
  const pending = run.stop ? [] : await pendingOf(context, client, run);
  const status: RunState['status'] = run.stop ? 'stopped' : pending.length > 0 ? 'waiting' : 'running';
  const { temporalWeb, runs } = context;
  return {
    run_id: run.run_id,
    status,
    stop_reason: run.stop?.stop_reason ?? (status === 'waiting' ? 'approval_required' : null),
    ...(run.stop ? { reason: run.stop.reason } : {}),
    pending,
    calls: await lastCalls(client, run),
    usage: { steps: run.steps, tool_calls: run.tool_calls, active_seconds: run.active_ms / 1000, usd: run.usd },
    agent: run.agent,
    owner: run.owner,
    requester: run.requester,
    goal: run.goal ?? '',
    created_at: run.created_at.toISOString(),
    stopped_at: run.stopped_at?.toISOString() ?? null,
    pending_id: pending[0]?.pending_id ?? null,
    temporal_web:
      temporalWeb === undefined ? null : `${temporalWeb}/namespaces/${encodeURIComponent(runs.namespace)}/workflows/${encodeURIComponent(run.run_id)}`,
  };
}

async function pendingOf(context: ServerContext, client: Client, run: RunHead): Promise<PendingView[]> {
  const sql = `SELECT * FROM approval_requests WHERE run_id = $1 AND first_execution_id = $2 AND status = 'open' ORDER BY created_at, pending_id`;
  const { rows } = await client.query<RequestRow>(sql, [run.run_id, run.first_execution_id]);
  if (rows.length === 0) return [];
  const votes = await votesOn(client, rows);
  const now = await ledgerNow(client);
  const quorums = await requiredQuorums(client, context.policy, rows, now);
  return rows.map((request) => pendingView(request, votes.get(request.pending_id) ?? [], quorums.get(request.pending_id) ?? request.quorum, now));
}

function pendingView(request: RequestRow, votes: readonly CountedVote[], quorum: number, now: Date): PendingView {
  const { pending_id, call_id, tool, preview, reason, rule, tier, args_hash } = request;
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
    missing: missingVotes(
      votes.filter((vote) => vote.counts),
      quorum,
    ),
    expires_at: request.expires_at.toISOString(),
    remaining_ms: Math.max(0, request.expires_at.getTime() - now.getTime()),
  };
}

const LAST_CALLS = `SELECT * FROM (
    SELECT call_id, tool, status, result_status, stop, step, position FROM calls
    WHERE run_id = $1 AND first_execution_id = $2 ORDER BY step DESC, position DESC LIMIT 20) c ORDER BY step, position`;

type CallColumns = Pick<CallRow, 'call_id' | 'tool' | 'status' | 'result_status' | 'stop'>;

async function lastCalls(client: Client, run: RunHead): Promise<CallSummary[]> {
  const { rows } = await client.query<CallColumns>(LAST_CALLS, [run.run_id, run.first_execution_id]);
  return rows.map(callSummary);
}

function callSummary(call: CallColumns): CallSummary {
  const { call_id, tool, result_status, stop } = call;
  return {
    call_id,
    tool,
    status: callStatus(call),
    ...(result_status === 'ok' || result_status === 'error' ? { result: result_status } : {}),
    ...(stop ? { reason: stop.reason } : {}),
  };
}

function callStatus(call: CallColumns): CallSummary['status'] {
  switch (call.status) {
    case 'done':
      return 'executed';
    case 'executing':
      return 'running';
    case 'refused':
      return call.stop?.rule === 'unknown_tool' || call.stop?.rule === 'invalid_arguments' ? 'invalid' : 'refused';
    case 'ready':
    case 'waiting':
    case 'stopped':
      return call.status;
    default:
      return assertNever(call.status, 'status of a call');
  }
}
