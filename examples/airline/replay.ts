/**
 * The recorded runs go through Holdpoint: npm run airline -- --help
 *
 * Starts the stack and the approver, then the runs as local-operator; waits for all, counts, and stops what it started.
 * Exits 0 only if exactly what was approved was executed, nothing wrong was, and the audit trail verifies.
 */
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { type AuditEvent, HoldpointClient } from 'holdpoint';
import { type Options, optionsOf, USAGE } from './options.ts';
import { type Progress, startProgress } from './progress.ts';
import { type Recording, runInputOf } from './recordings.ts';
import { removeState, startStack, stop } from './stack.ts';
import { type Outcome, table } from './table.ts';
import { broken, readEffects, type Replay, tallyOf } from './tally.ts';

const interrupted = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => interrupted.abort());
process.exitCode = await main(process.argv.slice(2));

/** @returns the exit code; 130 is what a shell expects of a program that was interrupted */
async function main(args: string[]): Promise<number> {
  let options: Options | 'help';
  try {
    options = optionsOf(args);
  } catch (error) {
    complain(error);
    process.stderr.write(USAGE);
    return 2;
  }
  if (options !== 'help') return await run(options);
  process.stdout.write(USAGE);
  return 0;
}

async function run(options: Options): Promise<number> {
  const stateDir = options.stateDir === undefined ? mkdtempSync(join(tmpdir(), 'holdpoint-airline-')) : resolve(options.stateDir);
  mkdirSync(stateDir, { recursive: true, mode: 0o700 });
  const started: ChildProcess[] = [];
  const progress = startProgress();
  try {
    const outcome = await Promise.race([play(options, stateDir, started, progress), aborted(interrupted.signal)]);
    progress.done();
    process.stdout.write(`${options.json ? JSON.stringify(outcome) : table(outcome)}\n`);
    return outcome.broken.length === 0 ? 0 : 1;
  } catch (error) {
    progress.done();
    if (interrupted.signal.aborted) return 130;
    complain(error);
    return 1;
  } finally {
    interrupted.abort();
    await stop(started);
    if (options.stateDir === undefined) removeState(stateDir);
  }
}

async function play(options: Options, stateDir: string, started: ChildProcess[], progress: Progress): Promise<Outcome> {
  const stack = await startStack(stateDir, options.limit, started);
  const client = new HoldpointClient({ url: stack.url, apiKey: stack.operatorKey });
  const began = performance.now();
  const replays = await Promise.race([replayAll(client, options, progress), stack.failure]);
  const seconds = (performance.now() - began) / 1000;
  const tally = tallyOf(replays, readEffects(join(stateDir, 'effects.jsonl')));
  const audit = await client.verifyAudit();
  const run_ids = Object.fromEntries(replays.map(({ recording, run: { run_id } }) => [recording.id, run_id]));
  return { repeat_refusal_limit: options.limit, ...tally, seconds, audit, broken: broken(tally, audit), run_ids };
}

/** So many at a time; the next starts when one has ended. */
async function replayAll(client: HoldpointClient, { chosen, concurrency }: Options, progress: Progress): Promise<Replay[]> {
  const replays: Replay[] = [];
  const left = chosen.values();
  const began = performance.now();
  const show = (): void => progress.report(progressOf(replays, chosen.length, (performance.now() - began) / 1000));
  const clock = setInterval(show, 500);
  const lane = async (): Promise<void> => {
    for (const recording of left) replays.push(await replay(client, recording));
  };
  try {
    await Promise.all(Array.from({ length: concurrency }, lane));
  } finally {
    clearInterval(clock);
  }
  return replays;
}

async function replay(client: HoldpointClient, recording: Recording): Promise<Replay> {
  const { signal } = interrupted;
  let view = await client.startRun(runInputOf(recording), { signal });
  while (view.status !== 'stopped') view = await client.getRun(view.run_id, { wait: 30, until: 'stopped', signal });
  return { recording, run: view, events: await eventsOf(client, view.run_id) };
}

async function eventsOf(client: HoldpointClient, run_id: string): Promise<AuditEvent[]> {
  const events: AuditEvent[] = [];
  let cursor: string | undefined;
  do {
    const page = await client.audit({ run: run_id, limit: 1_000, cursor });
    events.push(...page.events);
    cursor = page.next ?? undefined;
  } while (cursor !== undefined);
  return events;
}

/** Writes are counted when their run has ended. */
function progressOf(replays: readonly Replay[], all: number, seconds: number): string {
  const { runs, writes_asked, approved, refused } = tallyOf(replays, []);
  return `${seconds.toFixed(0)} s  ${runs} of ${all} runs: ${writes_asked} writes asked, ${approved} approved, ${refused} refused`;
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('interrupted')), { once: true }));
}

function complain(error: unknown): void {
  process.stderr.write(`airline: ${error instanceof Error ? error.message : String(error)}\n`);
}
