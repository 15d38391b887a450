/** What is measured of Holdpoint alone: decision request → tool, events of a call, memory of a waiting run, waking it. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { HoldpointClient } from '../client/index.ts';
import { type Latency, latencyOf, measureIdle, startAll } from './phases.ts';
import { now, residentMegabytes } from './process.ts';
import { type HoldpointSide, openHoldpoint } from './side-holdpoint.ts';
import { each, type OpenSide, TOOL, upTo } from './side.ts';
import type { Stand } from './stand.ts';

export interface Requests {
  /** `POST` of the decision → the tool's first line: HTTP, ledger commit, signing, delivery, and the message's own way. */
  to_tool: Latency;
  /** `POST` of the decision → its answer: committed and signed. */
  to_answer: Latency;
}

/** With the real `serve` and all its loops beside it. */
export async function measureRequests(stand: Stand, count: number): Promise<Requests> {
  const side = await openHoldpoint(stand, 500);
  const runs = await startAll(side, count, 1, 10);
  const serve = await startServe(stand, side);
  try {
    const client = new HoldpointClient({ url: serve.url, apiKey: side.approverKey });
    await sleep(1_500);
    const toTool: number[] = [];
    const toAnswer: number[] = [];
    for (const run of runs) {
      const sent = now();
      const answered = client.decide(side.pendingId(run, 1), { outcome: 'approved' }).then(() => toAnswer.push(now() - sent));
      const [at] = await Promise.all([side.worker.at('effect', run, 1), answered]);
      toTool.push(at - sent);
      await sleep(100);
    }
    return { to_tool: latencyOf(toTool), to_answer: latencyOf(toAnswer) };
  } finally {
    await serve.stop();
    await side.close();
  }
}

async function startServe(stand: Stand, side: HoldpointSide): Promise<{ url: string; stop(): Promise<void> }> {
  const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));
  const child: ChildProcess = spawn(process.execPath, [main, 'serve'], {
    env: {
      PATH: process.env['PATH'] ?? '',
      ...side.environment,
      DATABASE_URL: stand.serveDatabaseUrl,
      HOLDPOINT_KEYS_DIR: join(side.serveFolder, 'keys'),
      HOLDPOINT_CHECKPOINTS_DIR: join(side.serveFolder, 'checkpoints'),
      HOLDPOINT_IDENTITIES: join(side.serveFolder, 'identities.json'),
      PORT: '0',
      LOG_LEVEL: 'warn',
    },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  if (!child.stdout) throw new Error('serve has no output');
  const ended = once(child, 'exit').then(([code]) => Promise.reject(new Error(`serve ended with ${code}`)));
  const [line] = (await Promise.race([once(createInterface({ input: child.stdout }), 'line'), ended])) as [string];
  ended.catch(() => {});
  return {
    url: (JSON.parse(line) as { api_url: string }).api_url,
    async stop() {
      const gone = once(child, 'exit');
      child.kill('SIGTERM');
      await gone;
    },
  };
}

export interface Events {
  gated: number;
  allowed: number;
}

/** Events of a planner step: the activity and the workflow task that takes its answer. */
const PLANNER_STEP = 6;

/** History events that one more call costs, one call per step, planner steps left out; search attributes included. */
export async function countEvents(stand: Stand): Promise<Events> {
  const side = await openHoldpoint(stand, 500);
  const length = async (tool: string, calls: number): Promise<number> => {
    const run = await side.startScript(tool, calls);
    for (let call = 1; tool === TOOL && call <= calls; call++) {
      await side.askedInStep(run, call);
      await sleep(300);
      await side.prepare(run, call);
      await side.send(run, call);
    }
    const handle = stand.client.workflow.getHandle(side.workflowId(run));
    await handle.result();
    return (await handle.fetchHistory()).events?.length ?? 0;
  };
  try {
    const [MANY, FEW] = [6, 2];
    const perCall = async (tool: string): Promise<number> => ((await length(tool, MANY)) - (await length(tool, FEW))) / (MANY - FEW) - PLANNER_STEP;
    return { gated: await perCall(TOOL), allowed: await perCall('search.read') };
  } finally {
    await side.close();
  }
}

export interface Memory {
  /** Kilobytes (1,000 bytes) of resident memory per waiting run. */
  kb_per_run_cached: number;
  kb_per_run_evicted: number;
  /** Message → tool, idle, of runs in the cache and of runs that left it. */
  resume_cached: Latency;
  resume_evicted: Latency;
}

export async function measureMemory(stand: Stand, open: OpenSide, count: number, wake: number): Promise<Memory> {
  const cached = await waitingRuns(stand, open, count + 100, count, wake);
  const evicted = await waitingRuns(stand, open, 20, count, wake);
  return {
    kb_per_run_cached: cached.kbPerRun,
    kb_per_run_evicted: evicted.kbPerRun,
    resume_cached: cached.resume,
    resume_evicted: evicted.resume,
  };
}

async function waitingRuns(stand: Stand, open: OpenSide, cache: number, count: number, wake: number): Promise<{ kbPerRun: number; resume: Latency }> {
  const side = await open(stand, cache);
  try {
    // What the first runs bring (code, pools, buffers) is no cost of waiting.
    await measureIdle(side, 20);
    const before = await side.worker.memory();
    const runs = await startAll(side, count, 1, 20);
    await sleep(3_000);
    const kbPerRun = ((await side.worker.memory()) - before) / count / 1_000;
    // The oldest: with the small cache all of them have left it.
    const times: number[] = [];
    for (const run of runs.slice(0, wake)) {
      await side.prepare(run, 1);
      await sleep(50);
      const sent = now();
      const [at] = await Promise.all([side.worker.at('effect', run, 1), side.send(run, 1)]);
      times.push(at - sent);
      await sleep(100);
    }
    return { kbPerRun, resume: latencyOf(times) };
  } finally {
    await side.close();
  }
}

export interface Crowd {
  waiting: number;
  start_seconds: number;
  /** Resident memory of the one worker, in megabytes (1,000,000 bytes), as the system counts it; null where it does not tell. */
  worker_mb: { before: number; waiting: number; peak: number } | null;
  approve_seconds: number;
  /** Effects that the tools saw, and how many different calls they were. */
  effects: number;
  calls_with_effect: number;
}

/** So many runs wait on one worker, then all are approved. Decisions are committed and signed as they are sent. */
export async function measureCrowd(stand: Stand, count: number, report: (message: string) => void): Promise<Crowd> {
  const side = await openHoldpoint(stand, 500);
  try {
    const before = residentMegabytes(side.worker.pid);
    const began = now();
    const runs: string[] = [];
    await each(upTo(count), 40, async () => {
      runs.push(await side.start(1));
      if (runs.length % 1_000 === 0) report(`${runs.length} runs started`);
    });
    const startSeconds = ((await side.asked(runs, 1)) - began) / 1000;
    await sleep(5_000);
    const waiting = residentMegabytes(side.worker.pid);
    const sent = now();
    let done = 0;
    await each(runs, 40, async (run) => {
      await side.prepare(run, 1);
      await Promise.all([side.worker.at('effect', run, 1), side.send(run, 1)]);
      if ((done += 1) % 1_000 === 0) report(`${done} runs approved and executed`);
    });
    const approveSeconds = (now() - sent) / 1000;
    await sleep(5_000);
    const after = residentMegabytes(side.worker.pid);
    return {
      waiting: runs.length,
      start_seconds: startSeconds,
      worker_mb: before && waiting && after ? { before: before.now, waiting: waiting.now, peak: after.peak } : null,
      approve_seconds: approveSeconds,
      effects: side.worker.effects(),
      calls_with_effect: done,
    };
  } finally {
    await side.close();
  }
}
