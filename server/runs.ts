/** Starts and cancels runs. The row comes first, under the caller's name; the workflow is started from it, once. */
import { randomUUID } from 'node:crypto';
import { type Pool, transaction } from '../adapters/database.ts';
import { newId } from '../adapters/ids.ts';
import type { RunView } from '../client/types.ts';
import type { RunFile } from '../core/contracts.ts';
import { HoldpointError, isHoldpointError, messageOf } from '../core/errors.ts';
import { recordNeverStarted } from './closing.ts';
import { type Loop, startLoop } from './loop.ts';
import type { ServerContext } from './ports.ts';
import { getRun } from './run-view.ts';

interface RegisteredRun {
  run_id: string;
  start_request_id: string;
  first_execution_id: string | null;
  input: RunFile;
}

/**
 * Registers a run and starts its workflow.
 *
 * @param idempotencyKey the same key and body answer with the same run; another body is refused
 * @throws HoldpointError `idempotency_conflict`, `temporal_unreachable` (the run is registered then, and is started as
 *   soon as Temporal answers)
 */
export async function startRun(context: ServerContext, owner: string, input: RunFile, idempotencyKey: string | undefined): Promise<string> {
  const run = await registerRun(context.pool, owner, input, idempotencyKey);
  if (run.first_execution_id === null) await startWorkflow(context, run);
  return run.run_id;
}

async function registerRun(pool: Pool, owner: string, input: RunFile, idempotencyKey: string | undefined): Promise<RegisteredRun> {
  return transaction(pool, async (client) => {
    const runId = newId('run');
    const inserted = await client.query<RegisteredRun>(
      `INSERT INTO runs (run_id, start_request_id, agent, owner, requester, input, idempotency_key, goal) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
       ON CONFLICT (owner, idempotency_key) DO NOTHING RETURNING run_id, start_request_id, first_execution_id, input`,
      [runId, randomUUID(), input.agent, owner, input.requester, JSON.stringify(input), idempotencyKey ?? null, input.goal ?? ''],
    );
    if (inserted.rows[0]) return inserted.rows[0];
    const existing = await client.query<RegisteredRun & { same: boolean }>(
      `SELECT run_id, start_request_id, first_execution_id, input, input::jsonb = $3::jsonb AS same FROM runs WHERE owner = $1 AND idempotency_key = $2`,
      [owner, idempotencyKey, JSON.stringify(input)],
    );
    const [before] = existing.rows;
    if (before?.same) return before;
    throw new HoldpointError('idempotency_conflict', `the idempotency key was used for run ${before?.run_id ?? '?'} with another body`, {
      details: { run_id: before?.run_id ?? null },
    });
  });
}

/** Repeating it answers with the same execution, so a crash between start and bind mends itself. */
async function startWorkflow(context: ServerContext, run: RegisteredRun): Promise<void> {
  const firstExecutionId = await startOrClose(context, run);
  await context.pool.query('UPDATE runs SET first_execution_id = $2 WHERE run_id = $1 AND first_execution_id IS NULL', [run.run_id, firstExecutionId]);
}

async function startOrClose(context: ServerContext, run: RegisteredRun): Promise<string> {
  try {
    return await context.runs.start(run);
  } catch (error) {
    if (!isHoldpointError(error)) throw error;
    if (error.code === 'temporal_unreachable') {
      throw new HoldpointError(error.code, `run ${run.run_id} is registered and starts as soon as Temporal answers: ${error.message}`, {
        details: { run_id: run.run_id },
        cause: error,
        ...(error.hint === undefined ? {} : { hint: error.hint }),
      });
    }
    // Refused for what it is: trying again would be refused again.
    await recordNeverStarted(context.pool, run.run_id, error.message);
    throw error;
  }
}

/** Asks the run to cancel; its own last activity closes requests and records the end. */
export async function cancelRun(context: ServerContext, runId: string): Promise<RunView> {
  const view = await getRun(context, runId);
  if (view.status === 'stopped') {
    throw new HoldpointError('run_stopped', `run ${runId} has ended: ${view.stop_reason ?? 'stopped'}`, {
      details: { run_id: runId, stop_reason: view.stop_reason },
    });
  }
  await context.runs.cancel(runId);
  return getRun(context, runId);
}

const BATCH = 50;

/** Starts what was registered and not started: `serve` died or Temporal was away in between. */
export function startRecovery(context: ServerContext): Loop {
  return startLoop(
    'recovery of starts',
    async () => {
      const left = await recoverStarts(context);
      return left === BATCH ? 100 : 2_000;
    },
    context.log,
  );
}

/** @returns how many unstarted runs were found */
export async function recoverStarts(context: ServerContext): Promise<number> {
  const { rows } = await context.pool.query<RegisteredRun>(
    `SELECT run_id, start_request_id, first_execution_id, input FROM runs
     WHERE first_execution_id IS NULL AND checked_at < clock_timestamp() - interval '5 seconds' ORDER BY checked_at LIMIT $1`,
    [BATCH],
  );
  for (const run of rows) {
    await context.pool.query('UPDATE runs SET checked_at = clock_timestamp() WHERE run_id = $1', [run.run_id]);
    try {
      await startWorkflow(context, run);
    } catch (error) {
      context.log.warn({ run_id: run.run_id, error: messageOf(error) }, 'a registered run could not be started yet');
      if (isHoldpointError(error) && error.code === 'temporal_unreachable') throw error;
    }
  }
  return rows.length;
}
