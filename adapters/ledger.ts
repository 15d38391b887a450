/** The ledger on PostgreSQL, gateway side. */
import type { Ledger, RunLedger, TranscriptRow } from '../activities/ports.ts';
import { HoldpointError } from '../core/errors.ts';
import { lockHead } from './chain.ts';
import { type Pool, transaction } from './database.ts';
import { PostgresRunLedger } from './run-ledger.ts';

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
    withRun<T>(run: { run_id: string; first_execution_id: string }, work: (ledger: RunLedger) => Promise<T>): Promise<T> {
      return transaction(pool, async (client) => {
        const ledger = new PostgresRunLedger(client, await lockHead(client, run.run_id), run.first_execution_id);
        try {
          return await work(ledger);
        } finally {
          // Nothing is committed before every write is known to have done what it should. One that failed is the reason why
          // what came after it failed, too.
          await ledger.written();
        }
      });
    },
    async transcript(run) {
      const { rows } = await pool.query<TranscriptRow>(TRANSCRIPT, [run.run_id, run.first_execution_id]);
      return rows;
    },
  };
}
