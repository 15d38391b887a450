/** What is measured of one side. Every number is of this machine, in this minute, with the other side measured beside it. */
import { setTimeout as sleep } from 'node:timers/promises';
import { cpuSeconds, now, threadSeconds } from './process.ts';
import { each, type Side, upTo } from './side.ts';
import type { Stand } from './stand.ts';

export interface Sizes {
  /** One-call runs that are decided one after the other. */
  idle: number;
  /** One-call runs under load. */
  runs: number;
  /** Runs of many calls, and how many each has. */
  longRuns: number;
  longCalls: number;
  /** Clients at a time. */
  concurrency: number;
}

export interface Latency {
  p50: number;
  p99: number;
}

export interface RoundOfOneSide {
  /** Message → the tool's first line, one at a time, in milliseconds. */
  idle: Latency;
  /** One-call runs: asked per second, approved per second, and message → tool under that load. */
  asks_per_second: number;
  approvals_per_second: number;
  loaded: Latency;
  /** From the start of one-call runs to their effects, without the time in which decisions are committed and signed. */
  runs_per_second: number;
  /** Calls of runs with many calls: asked and approved, likewise. */
  calls_per_second: number;
  /** CPU milliseconds per one-call run, start to end. */
  cpu_ms_per_run: CpuMs | null;
  /** CPU milliseconds per call of the runs with many calls, their starts and ends included. */
  cpu_ms_per_call: CpuMs | null;
}

/** By process; null where the system does not tell. */
export interface CpuMs {
  worker: number;
  temporal: number;
  postgres: number;
  /** The worker's, by its threads: main, others of Node, native ones. */
  worker_main: number;
  worker_node: number;
  worker_native: number;
}

/** Runs settle, garbage is collected, other work of the server is done. */
const SETTLE_MS = 1_500;

export async function measureRound(stand: Stand, side: Side, sizes: Sizes): Promise<RoundOfOneSide> {
  await warmUp(side);
  const idle = await measureIdle(side, sizes.idle);
  const single = await measureSingle(stand, side, sizes);
  return { idle, ...single, ...(await measureLong(stand, side, sizes)) };
}

async function warmUp(side: Side): Promise<void> {
  const runs = await startAll(side, 20, 1, 5);
  await prepareAll(side, runs, 1);
  await each(runs, 5, (run) => decideOnce(side, run, 1).then(() => {}));
  await sleep(SETTLE_MS);
}

export async function startAll(side: Side, count: number, calls: number, concurrency: number): Promise<string[]> {
  const runs: string[] = [];
  await each(upTo(count), concurrency, async () => {
    runs.push(await side.start(calls));
  });
  await side.asked(runs, calls);
  return runs;
}

async function prepareAll(side: Side, runs: readonly string[], calls: number): Promise<void> {
  const all = runs.flatMap((run) => upTo(calls).map((index) => ({ run, call: index + 1 })));
  await each(all, 8, ({ run, call }) => side.prepare(run, call));
}

/** @returns milliseconds from the message to the tool's first line */
async function decideOnce(side: Side, run: string, call: number): Promise<number> {
  const sent = now();
  const [at] = await Promise.all([side.worker.at('effect', run, call), side.send(run, call)]);
  return at - sent;
}

export async function measureIdle(side: Side, count: number): Promise<Latency> {
  const runs = await startAll(side, count, 1, 10);
  await prepareAll(side, runs, 1);
  await sleep(SETTLE_MS);
  const times: number[] = [];
  for (const run of runs) {
    times.push(await decideOnce(side, run, 1));
    // Long enough for the run to end: what is measured is a server that does nothing else.
    await sleep(100);
  }
  return latencyOf(times);
}

async function measureSingle(
  stand: Stand,
  side: Side,
  { runs: count, concurrency }: Sizes,
): Promise<Omit<RoundOfOneSide, 'idle' | 'calls_per_second' | 'cpu_ms_per_call'>> {
  const cpu = cpuOf(stand, side);
  const began = now();
  const runs: string[] = [];
  await each(upTo(count), concurrency, async () => {
    runs.push(await side.start(1));
  });
  const askSeconds = ((await side.asked(runs, 1)) - began) / 1000;
  await sleep(SETTLE_MS);
  cpu.pause();
  await prepareAll(side, runs, 1);
  await sleep(SETTLE_MS);
  cpu.resume();
  const sent = now();
  const times: number[] = [];
  await each(runs, concurrency, async (run) => {
    times.push(await decideOnce(side, run, 1));
  });
  const ends = await Promise.all(runs.map((run) => side.worker.at('effect', run, 1)));
  const approveSeconds = (Math.max(...ends) - sent) / 1000;
  await sleep(SETTLE_MS);
  cpu.pause();
  return {
    asks_per_second: count / askSeconds,
    approvals_per_second: count / approveSeconds,
    loaded: latencyOf(times),
    runs_per_second: count / (askSeconds + approveSeconds),
    cpu_ms_per_run: cpu.per(count),
  };
}

/** Each client takes one run through all its calls. Starting, asking and approving count; committing and signing do not. */
export async function measureLong(
  stand: Stand,
  side: Side,
  { longRuns, longCalls, concurrency }: Sizes,
): Promise<Pick<RoundOfOneSide, 'calls_per_second' | 'cpu_ms_per_call'>> {
  const cpu = cpuOf(stand, side);
  const began = now();
  const runs: string[] = [];
  await each(upTo(longRuns), concurrency, async () => {
    runs.push(await side.start(longCalls));
  });
  const askSeconds = ((await side.asked(runs, longCalls)) - began) / 1000;
  await sleep(SETTLE_MS);
  cpu.pause();
  await prepareAll(side, runs, longCalls);
  await sleep(SETTLE_MS);
  cpu.resume();
  const sent = now();
  await each(runs, concurrency, async (run) => {
    for (let call = 1; call <= longCalls; call++) {
      await side.listening(run, call);
      await decideOnce(side, run, call);
    }
  });
  const ends = await Promise.all(runs.map((run) => side.worker.at('effect', run, longCalls)));
  await sleep(SETTLE_MS);
  cpu.pause();
  const calls = longRuns * longCalls;
  return { calls_per_second: calls / (askSeconds + (Math.max(...ends) - sent) / 1000), cpu_ms_per_call: cpu.per(calls) };
}

/** CPU of the three processes, with pauses in which nothing is counted. */
function cpuOf(stand: Stand, side: Side): { pause(): void; resume(): void; per(count: number): CpuMs | null } {
  const read = (): CpuMs => {
    const threads = threadSeconds(side.worker.pid);
    return {
      worker: cpuSeconds(side.worker.pid) ?? Number.NaN,
      temporal: cpuSeconds(stand.serverPid) ?? Number.NaN,
      postgres: cpuSeconds(stand.postgresPid) ?? Number.NaN,
      worker_main: threads?.main ?? Number.NaN,
      worker_node: threads?.node ?? Number.NaN,
      worker_native: threads?.native ?? Number.NaN,
    };
  };
  const names = ['worker', 'temporal', 'postgres', 'worker_main', 'worker_node', 'worker_native'] as const;
  const used: CpuMs = { worker: 0, temporal: 0, postgres: 0, worker_main: 0, worker_node: 0, worker_native: 0 };
  let since = read();
  return {
    pause() {
      const until = read();
      for (const name of names) used[name] += until[name] - since[name];
    },
    resume() {
      since = read();
    },
    per(count) {
      if (Number.isNaN(used.worker)) return null;
      return Object.fromEntries(names.map((name) => [name, (used[name] / count) * 1000])) as unknown as CpuMs;
    },
  };
}

export function latencyOf(times: readonly number[]): Latency {
  const sorted = times.toSorted((a, b) => a - b);
  const at = (share: number): number => sorted[Math.min(sorted.length - 1, Math.ceil(share * sorted.length) - 1)] ?? Number.NaN;
  return { p50: at(0.5), p99: at(0.99) };
}
