/** The ledger on PostgreSQL, gateway side. */
import type { CallRow, FoundCall, Ledger, RequestRow, TranscriptRow, VoteRow } from '../activities/ports.ts';
import { GENESIS } from '../core/audit.ts';
import { HoldpointError } from '../core/errors.ts';
import { lockHead } from './chain.ts';
import { type Pool, prepared, transaction } from './database.ts';
import { PostgresRunLedger, runOf, type StateRow } from './run-ledger.ts';

/** What a planner looks back on: so many calls, and so much of each result. More would not fit into the worker's memory for ever. */
const TRANSCRIPT_CALLS = 500;
const TRANSCRIPT_RESULT = 65_536;

const TRANSCRIPT = `SELECT * FROM (
    SELECT c.call_id, c.step, c.position, c.tool, c.status, c.stop, left(c.result, ${TRANSCRIPT_RESULT}) AS result, a.canonical
    FROM calls c LEFT JOIN arguments a USING (args_hash)
    WHERE c.run_id = $1 AND c.first_execution_id = $2 AND c.status IN ('done', 'refused')
    ORDER BY c.step DESC, c.position DESC LIMIT ${TRANSCRIPT_CALLS}) newest
  ORDER BY step, position`;

/** @param pool connections of role `holdpoint_worker`, with `pipeline` */
export function createLedger(pool: Pool): Ledger {
  if (pool.options.pipeline !== true) throw new HoldpointError('internal', 'the ledger sends its writes without waiting: its pool needs `pipeline`');
  return {
    withRun: (run, work) =>
      transaction(pool, async (client, { later, begun }) => {
        const [head] = await Promise.all([lockHead(client, run.run_id), begun]);
        return work(new PostgresRunLedger({ client, later, head }, run.first_execution_id));
      }),
    withCall: (run, { call_id, tool = null }, work) =>
      transaction(pool, async (client, { later, begun }) => {
        const entering = client.query<EnteredRow>(prepared(ENTER, [run.run_id, run.first_execution_id, call_id, tool, GENESIS]));
        const [{ rows }] = await Promise.all([entering, begun]);
        const [row] = rows;
        if (!row) throw new HoldpointError('internal', `call ${call_id} of run ${run.run_id} cannot be entered`);
        const head = { run_id: run.run_id, seq: row.seq, hash: row.hash, at: row.at };
        return work(new PostgresRunLedger({ client, later, head }, run.first_execution_id), foundOf(row));
      }),
    async transcript(run) {
      const { rows } = await pool.query<TranscriptRow>(TRANSCRIPT, [run.run_id, run.first_execution_id]);
      return rows;
    },
  };
}

const ENTER = 'SELECT seq, hash, at, run, call, request, votes, canonical, control_scope, control_reason FROM enter_call($1, $2, $3, $4, $5)';

/** Rows inside it are JSON: their times are text. */
interface EnteredRow {
  seq: number;
  hash: string;
  at: Date;
  run: StateRow | null;
  call: CallRow | null;
  request: RequestRow | null;
  votes: VoteRow[] | null;
  canonical: string | null;
  control_scope: string | null;
  control_reason: string | null;
}

function foundOf({ run, call, request, votes, canonical, control_scope: scope, control_reason: reason }: EnteredRow): FoundCall {
  return {
    run: run ? runOf(run) : undefined,
    call: call ?? undefined,
    waiting: request
      ? {
          request: timed(request, ['created_at', 'expires_at', 'resolved_at', 'usable_until']),
          votes: (votes ?? []).map((vote) => timed(vote, ['decided_at'])),
          canonical: canonical ?? undefined,
        }
      : undefined,
    engaged: scope === null ? undefined : { scope, reason },
  };
}

function timed<T extends object>(row: T, columns: readonly (keyof T)[]): T {
  const times = columns.map((column) => [column, row[column] === null ? null : new Date(String(row[column]))]);
  return { ...row, ...(Object.fromEntries(times) as Partial<T>) };
}
