/** Finds runs that are gone: Temporal holds no open execution, and the ledger no end. */
import { messageOf } from '../core/errors.ts';
import { type GoneRun, recordGone } from './closing.ts';
import { type Loop, startLoop } from './loop.ts';
import type { ServerContext } from './ports.ts';

const BATCH = 50;
const PAUSE_MS = 5_000;

export function startSweeper(context: ServerContext): Loop {
  return startLoop('sweeper', async () => ((await sweep(context)) === BATCH ? 200 : PAUSE_MS), context.log);
}

/** Rows that were looked at longest ago. A row is marked before it is looked at, so several services share the work. */
const DUE_STATES = `UPDATE run_states s SET checked_at = clock_timestamp() FROM (
    SELECT run_id, first_execution_id FROM run_states WHERE stop IS NULL AND checked_at < clock_timestamp() - $2 * interval '1 second'
    ORDER BY checked_at LIMIT $1 FOR UPDATE SKIP LOCKED) due
  WHERE s.run_id = due.run_id AND s.first_execution_id = due.first_execution_id RETURNING s.run_id, s.first_execution_id`;

/** Registered runs whose workflow never reported. */
const DUE_UNREPORTED = `UPDATE runs r SET checked_at = clock_timestamp() FROM (
    SELECT u.run_id FROM runs u WHERE u.first_execution_id IS NOT NULL AND u.checked_at < clock_timestamp() - $2 * interval '1 second'
    AND NOT EXISTS (SELECT 1 FROM run_states s WHERE s.run_id = u.run_id AND s.first_execution_id = u.first_execution_id)
    ORDER BY u.checked_at LIMIT $1 FOR UPDATE OF u SKIP LOCKED) due
  WHERE r.run_id = due.run_id RETURNING r.run_id, r.first_execution_id`;

/**
 * One round.
 *
 * @param minAgeSeconds rows looked at more recently are left for later
 * @returns how many runs were looked at
 */
export async function sweep(context: ServerContext, minAgeSeconds = 10): Promise<number> {
  const states = await context.pool.query<GoneRun>(DUE_STATES, [BATCH, minAgeSeconds]);
  const unreported = await context.pool.query<GoneRun>(DUE_UNREPORTED, [BATCH, minAgeSeconds]);
  let answered = 0;
  const failures: unknown[] = [];
  for (const run of [...states.rows, ...unreported.rows]) {
    try {
      // Throws when Temporal does not answer: then nothing is known of this run, and it is not closed.
      if ((await context.runs.describe(run)) === 'gone') await closeGone(context, run);
      answered += 1;
    } catch (error) {
      failures.push(error);
      // One run that cannot be looked at must not hide the others; a server that is down answers nobody.
      if (failures.length >= 3 && answered === 0) break;
    }
  }
  if (failures.length > 0) throw failures[0];
  return Math.max(states.rows.length, unreported.rows.length);
}

/** A run that ends normally records its end before it closes: one that is closed without it was ended by somebody else. */
async function closeGone(context: ServerContext, run: GoneRun): Promise<void> {
  try {
    const closed = await recordGone(context.pool, run, 'the workflow is gone: it was terminated, failed or timed out outside of Holdpoint');
    if (closed) context.log.warn(run, 'a run is gone; what it asked is closed');
  } catch (error) {
    context.log.warn({ ...run, error: messageOf(error) }, 'a run that is gone could not be closed yet');
  }
}
