/** The minimal workflow of `bench/minimal/`: a policy check, a signal with a time limit, an effect. */
import { startWorker } from './process.ts';
import { newQueue, type OpenSide, TOOL } from './side.ts';

const TTL_MS = 86_400_000;

export const openMinimal: OpenSide = async (stand, cache) => {
  const taskQueue = newQueue();
  const worker = await startWorker('worker-minimal.ts', { ...stand.temporalEnvironment, BENCH_TASK_QUEUE: taskQueue, BENCH_CACHE: String(cache) });
  const { workflow } = stand.client;
  let started = 0;
  return {
    name: 'minimal',
    worker,
    async start(calls) {
      const run = `${taskQueue}-${(started += 1)}`;
      const input = { tool: TOOL, args: { run, call: 0 }, ttlMs: TTL_MS, update: false, calls };
      await workflow.start('minimal', { workflowId: run, taskQueue, args: [input] });
      return run;
    },
    async asked(runs) {
      return Math.max(...(await Promise.all(runs.map((run) => worker.at('asked', run, 1)))));
    },
    prepare: async () => {},
    async listening(run, call) {
      await worker.at('asked', run, call);
    },
    send: (run) => workflow.getHandle(run).signal('decide', true),
    workflowId: (run) => run,
    close: () => worker.stop(),
  };
};
