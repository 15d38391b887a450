/**
 * The 200 recorded runs go through Holdpoint: npm run airline -- --help
 *
 * Starts the stack and the approver, then the runs as local-operator; waits for all, counts, and stops what it started.
 * Exits 0 only if exactly what was approved was executed, nothing wrong was, and the audit trail verifies.
 */
import type { ChildProcess } from 'node:child_process';
import { mkdirSync, mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';
import { type AuditEvent, HoldpointClient } from 'holdpoint';
import { type Progress, startProgress } from './progress.ts';
import { type Recording, recordings, runInputOf } from './recordings.ts';
import { removeState, startStack, stop } from './stack.ts';
import { type Outcome, table } from './table.ts';
import { broken, readEffects, type Replay, tallyOf } from './tally.ts';

const USAGE = `usage: npm run airline -- [options]
  --limit N         repeat_refusal_limit of the policy (0 = none; default 0)
  --concurrency N   runs at a time (default 8)
  --state-dir DIR   keeps the state there (default: a temporary one)
  --json            prints one JSON document instead of the table
`;

interface Options {
  limit: number;
  concurrency: number;
  stateDir: string | undefined;
  json: boolean;
}

const interrupted = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => interrupted.abort());
process.exitCode = await main(process.argv.slice(2));

async function main(args: string[]): Promise<number> {
  const options = optionsOf(args);
  if (typeof options === 'number') return options;
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
    process.stderr.write(`airline: ${error instanceof Error ? error.message : String(error)}\n`);
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
  const replays = await Promise.race([replayAll(client, options.concurrency, progress), stack.failure]);
  const seconds = (performance.now() - began) / 1000;
  const tally = tallyOf(replays, readEffects(join(stateDir, 'effects.jsonl')));
  const audit = await client.verifyAudit();
  return { repeat_refusal_limit: options.limit, ...tally, seconds, audit, broken: broken(tally, audit) };
}

/** So many at a time; the next starts when one has ended. */
async function replayAll(client: HoldpointClient, concurrency: number, progress: Progress): Promise<Replay[]> {
  const replays: Replay[] = [];
  const left = recordings.values();
  const began = performance.now();
  const show = (): void => progress.report(progressOf(replays, (performance.now() - began) / 1000));
  const clock = setInterval(show, 500);
  const lane = async (): Promise<void> => {
    for (const recording of left) {
      replays.push(await replay(client, recording));
      show();
    }
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
  let run = await client.startRun(runInputOf(recording), { signal });
  while (run.status !== 'stopped') run = await client.getRun(run.run_id, { wait: 30, until: 'stopped', signal });
  return { recording, run, events: await eventsOf(client, run.run_id) };
}

async function eventsOf(client: HoldpointClient, run: string): Promise<AuditEvent[]> {
  const events: AuditEvent[] = [];
  let cursor: string | undefined;
  do {
    const page = await client.audit({ run, limit: 1_000, cursor });
    events.push(...page.events);
    cursor = page.next ?? undefined;
  } while (cursor !== undefined);
  return events;
}

function progressOf(replays: readonly Replay[], seconds: number): string {
  const { runs, writes_asked, approved, refused } = tallyOf(replays, []);
  return `${runs} of ${recordings.length} runs, ${writes_asked} writes asked, ${approved} approved, ${refused} refused, ${seconds.toFixed(0)} s`;
}

function aborted(signal: AbortSignal): Promise<never> {
  return new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('interrupted')), { once: true }));
}

/** @returns the exit code when there is nothing to run */
function optionsOf(args: string[]): Options | number {
  try {
    const option = { limit: { type: 'string', default: '0' }, concurrency: { type: 'string', default: '8' }, 'state-dir': { type: 'string' } } as const;
    const { values } = parseArgs({ args, options: { ...option, json: { type: 'boolean', default: false }, help: { type: 'boolean', default: false } } });
    if (values.help) {
      process.stdout.write(USAGE);
      return 0;
    }
    const limit = wholeNumber('--limit', values.limit, 0, 1_000);
    return { limit, concurrency: wholeNumber('--concurrency', values.concurrency, 1, 200), stateDir: values['state-dir'], json: values.json };
  } catch (error) {
    process.stderr.write(`airline: ${error instanceof Error ? error.message : String(error)}\n${USAGE}`);
    return 2;
  }
}

function wholeNumber(name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < least || value > most) throw new Error(`${name} "${text}" is not a whole number from ${least} to ${most}`);
  return value;
}
