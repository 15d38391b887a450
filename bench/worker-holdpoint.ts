/** The built Holdpoint worker, as `holdpoint worker` composes it, with tools that note the time. */
import { z } from 'zod';
import type * as built from '../worker/index.ts';
import { type BenchArgs, installQuietRuntime, tell, workUntilTold } from './worker-common.ts';

installQuietRuntime();
const dist = new URL('../dist/worker/index.js', import.meta.url).href;
const { createWorker, definePlanner, defineTool, readWorkerConfig } = (await import(dist)) as typeof built;
const input = z.strictObject({ run: z.string(), call: z.int() });
const done = async (args: BenchArgs): Promise<string> => {
  tell('effect', args);
  return 'ok';
};
/** All calls of a run in one step: planning is no part of what is compared. */
const callsOf = (goal: string): { tool: string; args: BenchArgs }[] => {
  const { run, calls, tool = 'email.send' } = JSON.parse(goal) as { run: string; calls: number; tool?: string };
  return Array.from({ length: calls }, (_, index) => ({ tool, args: { run, call: index + 1 } }));
};
const worker = await createWorker({
  config: readWorkerConfig(process.env),
  tools: [
    defineTool({ name: 'email.send', kind: 'write', idempotent: true, input, execute: done }),
    defineTool({ name: 'search.read', kind: 'read', input, execute: done }),
  ],
  planners: { bench: definePlanner({ plan: async ({ goal, transcript }) => (transcript.length > 0 ? { done: true } : { calls: callsOf(goal) }) }) },
});
await workUntilTold(worker);
