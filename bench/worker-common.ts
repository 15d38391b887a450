/** What the two worker processes share, so that they differ in nothing but the workflow and its activities. */
import { DefaultLogger, Runtime } from '@temporalio/worker';
import { type FromWorker, now, type ToWorker } from './process.ts';

export const TASK_QUEUE = process.env['BENCH_TASK_QUEUE'] ?? 'bench';
export const CACHE = Number(process.env['BENCH_CACHE'] ?? '500');
/** The same limits on both sides. */
export const LIMITS = { maxCachedWorkflows: CACHE, maxConcurrentActivityTaskExecutions: 100, stickyQueueScheduleToStartTimeout: '1s' } as const;

/** Arguments of a benchmark call: which run and which of its calls it is. */
export interface BenchArgs {
  run: string;
  call: number;
}

const say = (message: FromWorker): void => void process.send?.(message);

export const tell = (type: 'asked' | 'effect', { run, call }: BenchArgs): void => say({ type, run, call, at: now() });

export function installQuietRuntime(): void {
  Runtime.install({ logger: new DefaultLogger('ERROR'), shutdownSignals: [] });
}

export async function workUntilTold(worker: { run(): Promise<void>; shutdown(): void }): Promise<void> {
  process.on('message', (message: ToWorker) => {
    if (message.type === 'stop') return worker.shutdown();
    for (let round = 0; round < 3; round++) (globalThis as { gc?: () => void }).gc?.();
    setTimeout(() => say({ type: 'memory', rss: process.memoryUsage.rss() }), 200);
  });
  process.once('disconnect', () => process.exit(1));
  const running = worker.run();
  say({ type: 'ready' });
  await running;
  process.disconnect?.();
  process.exit(0);
}
