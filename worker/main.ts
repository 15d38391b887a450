/** The process `holdpoint worker`: runs tools and workflows, holds tool credentials and public keys, and nothing that signs. */
import { readWorkerConfig } from './config.ts';
import { createWorker } from './index.ts';
import { createLog, installRuntime } from './log.ts';

/**
 * Works until SIGTERM, SIGINT or the end of the parent's IPC channel, then finishes what runs. Prints one JSON line on
 * stdout when it is ready.
 *
 * @throws HoldpointError when it cannot start, or breaks
 */
export async function runWorker(): Promise<void> {
  const config = readWorkerConfig(process.env);
  const log = createLog(config.logLevel);
  installRuntime(log);
  const starting = new AbortController();
  const stopAsked = askedToStop();
  void stopAsked.then((why) => {
    log.info({ why }, 'the worker stops');
    starting.abort();
  });
  const worker = await createWorker({ config, log, signal: starting.signal }).catch((error: unknown) => {
    if (starting.signal.aborted) return undefined;
    throw error;
  });
  if (!worker) return;
  const running = worker.run();
  void stopAsked.then(() => worker.shutdown());
  process.stdout.write(`${JSON.stringify({ ready: 'worker', ...(worker.healthUrl === undefined ? {} : { health_url: worker.healthUrl }) })}\n`);
  log.info({ task_queue: config.taskQueue }, 'the worker is ready');
  await running;
}

/** Listens from the first moment, so that a worker that is still starting can be stopped, too. */
function askedToStop(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
    if (process.channel) {
      process.once('disconnect', () => resolve('the parent is gone'));
      // The channel alone must not keep a worker alive that has ended.
      process.channel.unref();
    }
  });
}
