/** A worker as a process of its own, what it tells of its effects, and what it costs. */
import { type ChildProcess, fork } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

/** What a worker says of itself. Times are milliseconds since the epoch, with fractions. */
export type FromWorker =
  | { type: 'ready' }
  /** The first line of a policy check or of a tool. */
  | { type: 'asked' | 'effect'; run: string; call: number; at: number }
  | { type: 'memory'; rss: number };
export type ToWorker = { type: 'memory' } | { type: 'stop' };

/** Now, comparable between processes of one machine. */
export const now = (): number => performance.timeOrigin + performance.now();

export interface BenchWorker {
  readonly pid: number;
  /** When this call's policy check or tool began; waits for it. */
  at(type: 'asked' | 'effect', run: string, call: number): Promise<number>;
  effects(): number;
  /** Resident bytes after a collection of garbage. */
  memory(): Promise<number>;
  stop(): Promise<void>;
}

export async function startWorker(file: 'worker-minimal.ts' | 'worker-holdpoint.ts', env: Record<string, string>): Promise<BenchWorker> {
  const child = fork(fileURLToPath(new URL(file, import.meta.url)), {
    env: { PATH: process.env['PATH'] ?? '', NODE_ENV: 'production', ...env },
    execArgv: ['--import', 'tsx', '--expose-gc', ...(process.env['BENCH_NODE_OPTIONS'] ?? '').split(' ').filter(Boolean)],
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
  });
  const seen = new Map<string, number>();
  const waiting = new Map<string, (at: number) => void>();
  let effects = 0;
  const once = new Map<string, (message: FromWorker) => void>();
  child.on('message', (message: FromWorker) => {
    if (message.type === 'ready' || message.type === 'memory') return once.get(message.type)?.(message);
    if (message.type === 'effect') effects += 1;
    const key = `${message.type}/${message.run}/${message.call}`;
    // The first counts: an effect that came twice would show in the count.
    if (!seen.has(key)) seen.set(key, message.at);
    waiting.get(key)?.(message.at);
    waiting.delete(key);
  });
  const said = (type: 'ready' | 'memory'): Promise<FromWorker> => new Promise((resolve) => once.set(type, resolve));
  await Promise.race([said('ready'), ended(child)]);
  return {
    pid: child.pid ?? 0,
    effects: () => effects,
    async at(type, run, call) {
      const key = `${type}/${run}/${call}`;
      return seen.get(key) ?? (await new Promise<number>((resolve) => waiting.set(key, resolve)));
    },
    async memory() {
      const answer = said('memory');
      child.send({ type: 'memory' } satisfies ToWorker);
      const message = await answer;
      return message.type === 'memory' ? message.rss : 0;
    },
    async stop() {
      const gone = new Promise((resolve) => child.once('exit', resolve));
      child.send({ type: 'stop' } satisfies ToWorker);
      await gone;
    },
  };
}

function ended(child: ChildProcess): Promise<never> {
  return new Promise((_, reject) => child.once('exit', (code) => reject(new Error(`the worker ended with ${code} before it was ready`))));
}

/** Clock ticks per second of /proc, fixed on Linux. */
const TICKS = 100;

/** CPU seconds that a process and its descendants have used; undefined where there is no /proc. */
export function cpuSeconds(pid: number): number | undefined {
  const stats = allStats();
  if (stats.size === 0) return undefined;
  const tree = (root: number): number[] => [root, ...[...stats].filter(([, stat]) => stat.parent === root).flatMap(([child]) => tree(child))];
  // The root's own count includes children that have ended.
  return tree(pid).reduce((sum, one) => sum + ((one === pid ? stats.get(one)?.withEnded : stats.get(one)?.own) ?? 0), 0) / TICKS;
}

function allStats(): Map<number, { parent: number; own: number; withEnded: number }> {
  const stats = new Map<number, { parent: number; own: number; withEnded: number }>();
  if (process.platform !== 'linux') return stats;
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const text = readFileSync(`/proc/${name}/stat`, 'utf8');
      // The name in field 2 may hold spaces and brackets; what follows starts with field 3.
      const fields = text
        .slice(text.lastIndexOf(')') + 2)
        .split(' ')
        .map(Number);
      const [parent = 0, utime = 0, stime = 0, cutime = 0, cstime = 0] = [fields[1], fields[11], fields[12], fields[13], fields[14]];
      stats.set(Number(name), { parent, own: utime + stime, withEnded: utime + stime + cutime + cstime });
    } catch {
      // Ended between the listing and the look.
    }
  }
  return stats;
}

/** CPU seconds of a Node process by its threads: the main one, others of Node (workflows, the pool for files and signatures), and native ones. */
export function threadSeconds(pid: number): { main: number; node: number; native: number } | undefined {
  if (process.platform !== 'linux') return undefined;
  const used = { main: 0, node: 0, native: 0 };
  for (const thread of readdirSync(`/proc/${pid}/task`)) {
    try {
      const text = readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8');
      const name = text.slice(text.indexOf('(') + 1, text.lastIndexOf(')'));
      const fields = text
        .slice(text.lastIndexOf(')') + 2)
        .split(' ')
        .map(Number);
      const seconds = ((fields[11] ?? 0) + (fields[12] ?? 0)) / TICKS;
      used[Number(thread) === pid ? 'main' : name.startsWith('node') ? 'node' : 'native'] += seconds;
    } catch {
      // Ended between the listing and the look.
    }
  }
  return used;
}

/** Megabytes (1,000,000 bytes) that a process has in memory, and the most that it ever had; undefined where there is no /proc. */
export function residentMegabytes(pid: number): { now: number; peak: number } | undefined {
  if (process.platform !== 'linux') return undefined;
  const text = readFileSync(`/proc/${pid}/status`, 'utf8');
  const kibibytes = (name: string): number => Number(new RegExp(`^${name}:\\s+(\\d+) kB$`, 'm').exec(text)?.[1]);
  return { now: (kibibytes('VmRSS') * 1024) / 1e6, peak: (kibibytes('VmHWM') * 1024) / 1e6 };
}
