/** `holdpoint run FILE`. */
import type { HoldpointClient } from '../../client/index.ts';
import type { RunView } from '../../client/types.ts';
import { HoldpointError, isHoldpointError } from '../../core/errors.ts';
import { clientFor, contextOf, type CommonOptions, type Context } from '../context.ts';
import { exitCodeOf, TIMED_OUT } from '../exit-codes.ts';
import { printJson, tell } from '../output.ts';
import { readText } from '../read-text.ts';
import { printRun } from '../views.ts';

interface RunOptions extends CommonOptions {
  wait?: boolean;
  /** Seconds. */
  timeout?: number;
  idempotencyKey?: string;
}

/** Longest time that one request waits at the server. */
const POLL_SECONDS = 30;

export async function run(file: string, options: RunOptions): Promise<number> {
  const context = contextOf(options);
  const { parseRunFile } = await import('../../adapters/run-file.ts');
  const runFile = parseRunFile(await readText(file, 'invalid_run', 'run file'), file === '-' ? '<stdin>' : file);
  const client = await clientFor(context, 'operator');
  const deadline = options.timeout === undefined ? Number.POSITIVE_INFINITY : performance.now() + options.timeout * 1000;
  const key = options.idempotencyKey === undefined ? {} : { idempotencyKey: options.idempotencyKey };
  const started = await client.startRun(runFile, { wait: waitSeconds(deadline), ...key });
  const until = options.wait === true ? 'stopped' : 'settled';
  const view = await follow(client, started, until, deadline, context);
  const inTime = isReached(view, until);
  if (context.json) printJson(view);
  else printRun(view, context);
  if (!inTime) tell(`the run had not ${until === 'stopped' ? 'ended' : 'stopped or come to wait'} after ${options.timeout} s; it goes on`);
  return inTime ? exitCodeOf(view.stop_reason) : TIMED_OUT;
}

async function follow(client: HoldpointClient, started: RunView, until: 'settled' | 'stopped', deadline: number, context: Context): Promise<RunView> {
  let view = started;
  let told = false;
  while (!isReached(view, until) && performance.now() < deadline) {
    if (view.status === 'waiting' && !told) {
      told = true;
      tell(`waiting for a decision: ${view.pending.map((request) => context.command(`approve ${request.pending_id}`)).join('; ')}`);
    }
    try {
      view = await client.getRun(view.run_id, { wait: waitSeconds(deadline), until: until === 'stopped' && !told ? 'settled' : until });
    } catch (error) {
      if (!isHoldpointError(error)) throw error;
      throw new HoldpointError(error.code, `${error.message}; the run ${view.run_id} goes on without this command`, {
        cause: error,
        details: { ...error.details, run_id: view.run_id },
        hint: context.command(`show ${view.run_id}`),
      });
    }
  }
  return view;
}

function waitSeconds(deadline: number): number {
  return Math.max(0, Math.min(POLL_SECONDS, Math.ceil((deadline - performance.now()) / 1000)));
}

function isReached(view: RunView, until: 'settled' | 'stopped'): boolean {
  return view.status === 'stopped' || (until === 'settled' && view.status === 'waiting');
}
