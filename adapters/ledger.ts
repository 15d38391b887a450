/** The ledger on PostgreSQL, gateway side. */
import type { CallRow, Ledger, RunLedger } from '../activities/ports.ts';
import { lockHead } from './chain.ts';
import { type Pool, transaction } from './database.ts';
import { PostgresRunLedger } from './run-ledger.ts';

const TRANSCRIPT = `SELECT c.*, a.canonical FROM calls c LEFT JOIN arguments a USING (args_hash)
  WHERE c.run_id = $1 AND c.first_execution_id = $2 AND c.status IN ('done', 'refused')
  ORDER BY c.step, c.position`;

/** @param pool connection of role `holdpoint_worker` */
export function createLedger(pool: Pool): Ledger {
  return {
    withRun<T>(run: { run_id: string; first_execution_id: string }, work: (ledger: RunLedger) => Promise<T>): Promise<T> {
      return transaction(pool, async (client) => work(new PostgresRunLedger(client, await lockHead(client, run.run_id), run.first_execution_id)));
    },
    async transcript(run) {
      const { rows } = await pool.query<CallRow & { canonical: string | null }>(TRANSCRIPT, [run.run_id, run.first_execution_id]);
      return rows;
    },
  };
}
