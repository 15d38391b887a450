/** The built command, used as a person does: arguments in, exit code and text out. */
import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readFile, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { inject } from 'vitest';
import { isRunning, stopProcess } from '../../cli/stack/processes.ts';
import type { StackFile } from '../../cli/stack/state.ts';
import { eventually } from '../support/index.ts';

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const MAIN = join(ROOT, 'dist', 'cli', 'main.js');
if (!existsSync(MAIN)) throw new Error('dist/ is missing: npm run build');

export interface Answer {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface CallOptions {
  stateDir?: string;
  input?: string;
  env?: Record<string, string>;
  cwd?: string;
}

/** What a shell has, without what the tests themselves set. */
export function environment(extra: Record<string, string> = {}): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(([name]) => !/^(HOLDPOINT_(?!CACHE_DIR)|TEMPORAL_|DATABASE_URL|VITEST|NODE_OPTIONS)/.test(name));
  return { ...Object.fromEntries(own), ...extra };
}

/**
 * On the full server `up` is given the test run's, which all stacks share: each has a task queue of its own. On the
 * embedded one it starts its own.
 */
function givenServer(stateDir: string | undefined): Record<string, string> {
  if (inject('temporalServer') === 'embedded') return {};
  return { ...inject('temporalEnvironment'), ...(stateDir === undefined ? {} : { HOLDPOINT_TASK_QUEUE: `e2e-${stateDir}` }) };
}

function start(args: string[], options: CallOptions): ChildProcess {
  const state = options.stateDir === undefined ? [] : ['--state-dir', options.stateDir];
  const env = environment({ ...givenServer(options.stateDir), ...options.env });
  return spawn(process.execPath, [MAIN, ...args, ...state], { cwd: options.cwd ?? ROOT, env, stdio: 'pipe' });
}

/** Runs `holdpoint` to its end. */
export async function holdpoint(args: string[], options: CallOptions = {}): Promise<Answer> {
  const child = start(args, options);
  const answer: Answer = { code: null, stdout: '', stderr: '' };
  child.stdout!.setEncoding('utf8').on('data', (text: string) => (answer.stdout += text));
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (answer.stderr += text));
  child.stdin!.on('error', () => {});
  child.stdin!.end(options.input ?? '');
  const [code] = (await once(child, 'close')) as [number | null];
  return { ...answer, code };
}

/** Runs `holdpoint … --json` and parses its one document. */
export async function holdpointJson<T = Record<string, unknown>>(
  args: string[],
  options: CallOptions = {},
): Promise<{ code: number | null; data: T; stderr: string }> {
  const { code, stdout, stderr } = await holdpoint([...args, '--json'], options);
  if (stdout === '') throw new Error(`no output, exit code ${code}: ${stderr}`);
  return { code, data: JSON.parse(stdout) as T, stderr };
}

export interface Up {
  child: ChildProcess;
  addresses: Record<'temporal_address' | 'temporal_web' | 'api_url' | 'database_url' | 'state_dir', string>;
  /** All of stdout. */
  stdout: () => string;
  stderr: () => string;
  seconds: number;
}

/** `holdpoint up --json` on free ports, ready. */
export async function startUp(stateDir: string, extra: string[] = [], options: CallOptions = {}): Promise<Up> {
  const began = performance.now();
  const child = start(['up', '--json', '--temporal-port', '0', '--web-port', '0', '--api-port', '0', ...extra], { ...options, stateDir });
  let stdout = '';
  let stderr = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => (stderr += text));
  child.stdout!.setEncoding('utf8').on('data', (text: string) => (stdout += text));
  const line = await new Promise<string>((resolve, reject) => {
    createInterface({ input: child.stdout! }).once('line', resolve);
    child.once('close', (code) => reject(new Error(`up ended with ${code}: ${stderr}`)));
  });
  return { child, addresses: JSON.parse(line) as Up['addresses'], stdout: () => stdout, stderr: () => stderr, seconds: (performance.now() - began) / 1000 };
}

/** Starts `up`, interrupts it after a while, and says which of its processes are still there when it has ended. */
export async function interruptedUp(stateDir: string, afterMs: number): Promise<{ running: string[] }> {
  const child = start(['up', '--json', '--temporal-port', '0', '--web-port', '0', '--api-port', '0'], { stateDir });
  const closed = once(child, 'close');
  const seen = new Map<number, { name: string; pid: number; started: string }>();
  const watch = setInterval(
    () =>
      void stackFile(stateDir).then(
        (file) => file.parts.forEach((part) => seen.set(part.pid, part)),
        () => {},
      ),
    20,
  );
  await sleep(afterMs);
  child.kill('SIGTERM');
  await closed;
  clearInterval(watch);
  return { running: [...seen.values()].filter(isRunning).map((part) => part.name) };
}

/** Ctrl-C. @returns the exit code of `up` */
export async function stopUp(up: Up): Promise<number | null> {
  if (up.child.exitCode !== null || up.child.signalCode !== null) return up.child.exitCode;
  const closed = once(up.child, 'close') as Promise<[number | null]>;
  up.child.kill('SIGINT');
  return (await closed)[0];
}

export async function stackFile(stateDir: string): Promise<StackFile> {
  return JSON.parse(await readFile(join(stateDir, 'stack.json'), 'utf8')) as StackFile;
}

/** `kill -9` of `up` and of everything that it started. */
export async function killEverything(up: Up, stateDir: string): Promise<void> {
  const { parts } = await stackFile(stateDir);
  up.child.kill('SIGKILL');
  for (const part of parts) await stopProcess(part, ['SIGKILL'], 5_000);
  await eventually(() => (parts.some(isRunning) ? undefined : true), 'all processes of the stack are gone');
}

export async function effects(stateDir: string): Promise<{ tool: string; run_id: string; idempotency_key: string }[]> {
  const text = await readFile(join(stateDir, 'effects.jsonl'), 'utf8').catch(() => '');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as { tool: string; run_id: string; idempotency_key: string });
}

/** Removes a state directory, and as root the database that lies elsewhere. */
export async function removeState(stateDir: string): Promise<void> {
  const elsewhere = (await readFile(join(stateDir, 'pg', 'location'), 'utf8').catch(() => '')).trim();
  if (elsewhere !== '' && (await stat(elsewhere).catch(() => undefined)) !== undefined) await rm(elsewhere, { recursive: true });
  await rm(stateDir, { recursive: true, force: true });
}

export function emailRun(overrides: Record<string, unknown> = {}): string {
  return JSON.stringify({
    agent: 'e2e-agent',
    requester: 'e2e',
    planner: { type: 'script', calls: [{ tool: 'email.send', args: { to: 'ada@example.com', subject: 'Hello', body: 'It is done.' } }] },
    ...overrides,
  });
}

export function script(tool: string, args: unknown, overrides: Record<string, unknown> = {}): string {
  return JSON.stringify({ agent: 'e2e-agent', requester: 'e2e', planner: { type: 'script', calls: [{ tool, args }] }, ...overrides });
}
