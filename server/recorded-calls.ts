/** Calls as the audit trail holds them, with the arguments that they were judged by: what a policy is replayed over. */
import type { Pool } from '../adapters/database.ts';
import type { RecordedCallsPage } from '../client/types.ts';
import type { RecordedCall } from '../core/replay.ts';
import type { RequestStatus } from '../core/words.ts';
import { isoOf, readCursor, writeCursor } from './audit.ts';
import { matching } from './requests.ts';

export interface RecordedCallsFilter {
  run?: string | undefined;
  since?: Date | undefined;
  cursor?: string | undefined;
  limit: number;
}

/** Stored arguments that one page may hold; a page has one call at least. */
const MAX_PAGE_BYTES = 2 * 1024 * 1024;

/**
 * Policy's answer to a call that was read: not the kill switch, a budget, an invalid call. A write that is allowed says so
 * when it begins, a read when it has ended; with a `pending_id` that is the end of a call that was asked about.
 */
const JUDGEMENT = `call_id IS NOT NULL AND tool IS NOT NULL AND args_hash IS NOT NULL AND CASE outcome
  WHEN 'approval_required' THEN reason IS DISTINCT FROM 'more_votes_needed'
  WHEN 'deny' THEN reason = 'policy_denied'
  WHEN 'execution_started' THEN pending_id IS NULL AND event_key LIKE '%/execution_started/1'
  WHEN 'allow' THEN pending_id IS NULL
  ELSE false END`;

/**
 * A call may be judged again: after its tool or the policy has changed, after an interruption. Its first judgement counts, and
 * what became of its last request. Everything is looked up by call: a run may have many, and the trail more than can be scanned.
 */
const CALLS = `WITH page AS MATERIALIZED (
    SELECT *, split_part(event_key, '/', 1) AS execution FROM audit_events
    WHERE ${JUDGEMENT} AND ($1::text IS NULL OR run_id = $1) AND ($2::timestamptz IS NULL OR at >= $2)
      AND ($3::timestamptz IS NULL OR (at, run_id, seq) > ($3, $4, $5::bigint))
    ORDER BY at, run_id, seq LIMIT $6)
  SELECT p.run_id, p.seq, p.call_id, p.at, p.agent, p.owner, p.requester, p.tool, p.outcome, p.rule, p.pending_id, p.args_hash,
    q.last_status, coalesce(c.kind, 'write') AS kind, r.idempotent, r.tool_tier, coalesce(s.goal, '') AS goal, coalesce(octet_length(g.canonical), 0) AS bytes,
    p.pending_id IS NOT DISTINCT FROM q.first_id AND NOT (p.outcome = 'allow' AND EXISTS (
      SELECT FROM audit_events b WHERE b.run_id = p.run_id AND b.event_key = p.execution || '/' || p.call_id || '/execution_started/1')) AS is_first
  FROM page p
    LEFT JOIN LATERAL (
      SELECT (array_agg(pending_id ORDER BY created_at, pending_id))[1] AS first_id, (array_agg(status ORDER BY created_at DESC, pending_id DESC))[1] AS last_status
      FROM approval_requests a WHERE a.run_id = p.run_id AND a.first_execution_id = p.execution AND a.call_id = p.call_id) q ON true
    LEFT JOIN approval_requests r ON r.pending_id = p.pending_id
    LEFT JOIN calls c ON c.run_id = p.run_id AND c.first_execution_id = p.execution AND c.call_id = p.call_id
    LEFT JOIN run_states s ON s.run_id = p.run_id AND s.first_execution_id = p.execution
    LEFT JOIN arguments g ON g.args_hash = p.args_hash
  ORDER BY p.at, p.run_id, p.seq`;

interface CallRow extends Omit<RecordedCall, 'at' | 'outcome' | 'answer' | 'args' | 'args_state'> {
  seq: number;
  at: Date;
  outcome: 'approval_required' | 'deny' | 'execution_started' | 'allow';
  is_first: boolean;
  last_status: RequestStatus | null;
  bytes: number;
}

/** Calls in order of their first judgement's time. A page may hold fewer than `limit`, also none, and not be the last. */
export async function recordedCalls(pool: Pool, filter: RecordedCallsFilter): Promise<RecordedCallsPage> {
  const after = filter.cursor === undefined ? undefined : readCursor(filter.cursor);
  const place = [after?.at ?? null, after?.run_id ?? null, after?.seq ?? null];
  const { rows } = await pool.query<CallRow>(CALLS, [filter.run ?? null, filter.since ?? null, ...place, filter.limit + 1]);
  const page = fitting(rows.slice(0, filter.limit));
  const first = page.filter((row) => row.is_first);
  const stored = await pool.query<{ args_hash: string; canonical: string }>('SELECT args_hash, canonical FROM arguments WHERE args_hash = ANY($1)', [
    first.map(({ args_hash }) => args_hash),
  ]);
  const canonical = new Map(stored.rows.map((row) => [row.args_hash, row.canonical]));
  const last = page.at(-1);
  return {
    calls: first.map((row) => callOf(row, canonical.get(row.args_hash))),
    next: rows.length > page.length && last ? writeCursor({ ...last, at: isoOf(last.at) }) : null,
  };
}

function fitting(rows: readonly CallRow[]): readonly CallRow[] {
  let bytes = 0;
  for (const [index, row] of rows.entries()) {
    if (row.is_first) bytes += row.bytes;
    if (bytes > MAX_PAGE_BYTES && index > 0) return rows.slice(0, index);
  }
  return rows;
}

function callOf(row: CallRow, canonical: string | undefined): RecordedCall {
  const { run_id, call_id, at, agent, owner, requester, goal, tool, kind, idempotent, tool_tier, outcome, rule, pending_id, last_status, args_hash } = row;
  const args = canonical === undefined ? undefined : matching(canonical, row);
  return {
    run_id,
    call_id,
    at: isoOf(at),
    agent,
    owner,
    requester,
    goal,
    tool,
    kind,
    idempotent,
    tool_tier,
    outcome: outcome === 'execution_started' ? 'allow' : outcome,
    rule,
    pending_id,
    // A request that was superseded and followed by none is one that nobody has answered.
    answer: pending_id === null ? null : last_status === null || last_status === 'superseded' ? 'open' : last_status,
    args_hash,
    args_state: args ? 'stored' : canonical === undefined ? 'erased' : 'altered',
    args: args ? args.value : null,
  };
}
