/** What the replay starts besides itself: `holdpoint up` with the example's policy, and the approver. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { parseDocument } from 'yaml';

const here = (name: string): string => fileURLToPath(new URL(name, import.meta.url));
const HOLDPOINT = here('../../dist/cli/main.js');
const TSX = import.meta.resolve('tsx');

export interface Stack {
  url: string;
  /** API key of `local-operator`: starts runs and reads, decides nothing. */
  operatorKey: string;
  /** Rejects when one of the two programs ends by itself. */
  failure: Promise<never>;
}

/** Starts both. Whatever was started is in `started`, also when this throws: hand it to {@link stop}. */
export async function startStack(stateDir: string, refusalLimit: number, started: ChildProcess[]): Promise<Stack> {
  const ports = ['--temporal-port', '0', '--web-port', '0', '--api-port', '0'];
  const up = start([HOLDPOINT, 'up', '--json', '--state-dir', stateDir, '--config', policyWith(refusalLimit, stateDir), ...ports], {}, 'pipe');
  started.push(up);
  const url = await Promise.race([addressOf(up), endOf(up, 'holdpoint up')]);
  const key = (identity: string): string => readFileSync(join(stateDir, 'keys', `${identity}.key`), 'utf8').trim();
  const approver = start(['--import', TSX, here('./approver.ts')], { HOLDPOINT_URL: url, HOLDPOINT_API_KEY: key('approver') }, 'ignore');
  started.push(approver);
  const failure = Promise.race([endOf(up, 'holdpoint up'), endOf(approver, 'the approver')]);
  // Stopping ends both, when nobody listens any more.
  failure.catch(() => {});
  return { url, operatorKey: key('operator'), failure };
}

/** Stops what was started, the last first. */
export async function stop(started: ChildProcess[]): Promise<void> {
  for (const child of started.reverse()) {
    if (child.exitCode !== null || child.signalCode !== null) continue;
    const ended = once(child, 'exit');
    child.kill('SIGTERM');
    await ended;
  }
}

/** Removes a state directory, and the database that lies elsewhere when root started it. */
export function removeState(stateDir: string): void {
  let elsewhere: string | undefined;
  try {
    elsewhere = readFileSync(join(stateDir, 'pg', 'location'), 'utf8').trim();
  } catch {
    // It lies in the state directory.
  }
  if (elsewhere) rmSync(elsewhere, { recursive: true, force: true });
  rmSync(stateDir, { recursive: true, force: true });
}

/** The example's policy, a copy of it in the state directory when it has to say another limit. @returns its path */
function policyWith(refusalLimit: number, stateDir: string): string {
  const file = here('./holdpoint.yaml');
  const policy = parseDocument(readFileSync(file, 'utf8'));
  if (policy.getIn(['approvals', 'repeat_refusal_limit']) === refusalLimit) return file;
  policy.setIn(['approvals', 'repeat_refusal_limit'], refusalLimit);
  policy.set('tools', [here('./tools.ts')]);
  const copy = join(stateDir, 'airline.yaml');
  writeFileSync(copy, policy.toString());
  return copy;
}

/**
 * In a process group of its own: Ctrl-C reaches the replay alone, which stops the others in order. What the shell says of
 * other Holdpoint, Temporal and database servers is not passed on, so that none of them can be meant.
 */
function start(args: string[], env: Record<string, string>, stdout: 'pipe' | 'ignore'): ChildProcess {
  const own = Object.entries(process.env).filter(([name]) => !/^(HOLDPOINT_(?!CACHE_DIR$)|TEMPORAL_|DATABASE_URL$)/.test(name));
  return spawn(process.execPath, args, { env: { ...Object.fromEntries(own), ...env }, stdio: ['ignore', stdout, 'inherit'], detached: true });
}

/** `up --json` prints its addresses, one line, once everything is ready. */
async function addressOf(up: ChildProcess): Promise<string> {
  if (!up.stdout) throw new Error('the output of holdpoint up is not piped');
  const [line] = (await once(createInterface({ input: up.stdout }), 'line')) as [string];
  return (JSON.parse(line) as { api_url: string }).api_url;
}

async function endOf(child: ChildProcess, name: string): Promise<never> {
  const [code, signal] = (await once(child, 'exit')) as [number | null, NodeJS.Signals | null];
  throw new Error(`${name} ended: ${signal ?? `exit code ${code}`}`);
}
