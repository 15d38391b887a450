import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { isDeepStrictEqual, promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadPolicyFile } from '../../adapters/policy-file.ts';
import { loadTools } from '../../adapters/tools.ts';
import { identify, isRunning, type ProcessIdentity } from '../../cli/stack/processes.ts';
import type { AuditEvent } from '../../client/index.ts';
import type { ReplayReport } from '../../core/replay.ts';
import type { Outcome } from '../../examples/airline/table.ts';
import { verdictOn } from '../../examples/airline/tasks.ts';
import { eventually, temporaryFolder } from '../support/index.ts';
import { type Answer, environment, holdpointJson, removeState, startUp, stopUp } from './cli.ts';

const ROOT = join(import.meta.dirname, '../..');
const EXAMPLE = join(ROOT, 'examples/airline');
const CONFIG = join(EXAMPLE, 'holdpoint.yaml');
const WRITES = [
  'book_reservation',
  'cancel_reservation',
  'update_reservation_flights',
  'update_reservation_baggages',
  'update_reservation_passengers',
  'send_certificate',
];
/** They ask for the same refused write three times or more. */
const REPEATING = ['airline-13-0', 'airline-8-1', 'airline-9-2', 'airline-11-2'];

interface Call {
  tool: string;
  args: unknown;
}
interface Recorded {
  id: string;
  task: number;
  reward: number;
  calls: (Call & { result: string })[];
}
interface Task {
  task: number;
  goal: string;
  writes: Call[];
}

const lines = <T>(file: string): T[] =>
  readFileSync(file, 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as T);
const recordings = lines<Recorded>(join(EXAMPLE, 'runs.jsonl'));
const tasks = lines<Task>(join(EXAMPLE, 'tasks.jsonl'));
const listOf = (recorded: Recorded): Call[] => tasks[recorded.task]!.writes;

const isWrite = ({ tool }: { tool: string | null }): boolean => WRITES.includes(tool ?? '');
const isListed = (recorded: Recorded, { tool, args }: Call): boolean => listOf(recorded).some((listed) => isDeepStrictEqual(listed, { tool, args }));
/** The nth call of a script is the only call of step n. */
const placed = (recorded: Recorded) => recorded.calls.map(({ tool, args, result }, index) => ({ tool, args, result, call_id: `${index + 1}.1` }));

const callsIn = (recorded: Recorded, which: (call: Call) => boolean) =>
  placed(recorded)
    .filter(which)
    .map(({ tool, call_id }) => ({ tool, call_id }));
const callsOf = (events: AuditEvent[], outcome: AuditEvent['outcome']) =>
  events.filter((event) => event.outcome === outcome).map(({ tool, call_id }) => ({ tool, call_id }));

/** The writes that a run gets to ask for before it has been refused the same one `limit` times; 0 = all. */
function asks(recorded: Recorded, limit: number): Call[] {
  const asked: Call[] = [];
  for (const { tool, args } of recorded.calls.filter(isWrite)) {
    const write = { tool, args };
    asked.push(write);
    if (!isListed(recorded, write) && asked.filter((other) => isDeepStrictEqual(other, write)).length === limit) break;
  }
  return asked;
}

function insists(recorded: Recorded): boolean {
  const refused = recorded.calls.filter((call) => isWrite(call) && !isListed(recorded, call));
  return refused.some((call) => refused.filter(({ tool, args }) => isDeepStrictEqual([tool, args], [call.tool, call.args])).length >= 3);
}

function replay(args: string[], env: Record<string, string> = {}) {
  const child = spawn(process.execPath, ['--import', 'tsx', join(EXAMPLE, 'replay.ts'), ...args], { cwd: ROOT, env: environment(env), stdio: 'pipe' });
  const answer: Answer = { code: null, stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (text: string) => (answer.stdout += text));
  child.stderr.setEncoding('utf8').on('data', (text: string) => (answer.stderr += text));
  const ended = once(child, 'close').then(([code]) => ({ ...answer, code: code as number | null }));
  return { child, answer, ended };
}

/** Everything below a process, however deep. */
async function descendantsOf(pid: number): Promise<{ command: string; identity: ProcessIdentity }[]> {
  const { stdout } = await promisify(execFile)('ps', ['-eo', 'pid=,ppid=,args=']);
  const all = stdout.split('\n').flatMap((line) => {
    const [, own, parent, command = ''] = /^\s*(\d+)\s+(\d+)\s+(.*)$/.exec(line) ?? [];
    return own === undefined ? [] : [{ pid: Number(own), parent: Number(parent), command }];
  });
  const below = (parent: number): typeof all => all.filter((each) => each.parent === parent).flatMap((each) => [each, ...below(each.pid)]);
  return below(pid).flatMap(({ pid: found, command }) => {
    const identity = identify(found);
    return identity === undefined ? [] : [{ command, identity }];
  });
}

describe('the recordings and the rule', () => {
  test('the tools take every recorded call as it is and answer what was recorded, also when a run repeats a call', async () => {
    const tools = await loadTools((await loadPolicyFile(CONFIG)).tools);
    for (const recorded of recordings) {
      for (const { tool, args, call_id, result } of placed(recorded)) {
        const registered = tools.get(tool)!;
        expect(registered.kind).toBe(WRITES.includes(tool) ? 'write' : 'read');
        expect(registered.parse(args)).toEqual({ ok: true, value: args });
        const context = { run_id: recorded.id, call_id, idempotency_key: `${recorded.id}/${call_id}`, signal: new AbortController().signal };
        expect(await registered.execute(args, context)).toBe(result);
      }
    }
  });

  test('the candidate is the example’s policy with one rule more', async () => {
    const [{ policy: base }, { policy: candidate }] = [await loadPolicyFile(CONFIG), await loadPolicyFile(join(EXAMPLE, 'candidate.yaml'))];
    const { rules, ...scope } = candidate.policy;
    expect({ ...candidate, policy: { ...scope, rules: [] } }).toEqual(base);
    expect(rules).toHaveLength(1);
  });

  test('there are fifty tasks, each recorded four times; a goal names one task and no task lists a write twice', () => {
    expect(tasks.map(({ task }) => task)).toEqual(Array.from({ length: 50 }, (_, index) => index));
    for (const { task } of tasks) expect(recordings.filter((recorded) => recorded.task === task)).toHaveLength(4);
    expect(new Set(recordings.map(({ id }) => id)).size).toBe(200);
    expect(new Set(tasks.map(({ goal }) => goal)).size).toBe(50);
    for (const { writes } of tasks) expect(writes.filter((write, index) => writes.findIndex((other) => isDeepStrictEqual(other, write)) < index)).toEqual([]);
  });

  test('of 250 writes 88 are listed and 162 are not; a limit of 3 on repeated refusals leaves 244, 88 and 156', () => {
    const counts = (limit: number) => {
      const asked = recordings.flatMap((recorded) => asks(recorded, limit).map((write) => isListed(recorded, write)));
      return [asked.length, asked.filter((listed) => listed).length, asked.filter((listed) => !listed).length];
    };
    expect([counts(0), counts(3)]).toEqual([
      [250, 88, 162],
      [244, 88, 156],
    ]);
    expect(recordings.filter(insists).map(({ id }) => id)).toEqual(REPEATING);
  });

  test('a write is approved once if the task lists exactly it, and denied otherwise', () => {
    const write = { tool: 'update', args: { id: 'A', flights: [{ number: 1 }, { number: 2 }] } };
    const task = { task: 7, goal: 'g', writes: [write] };
    const outcome = (asked: Call, of: Task | undefined, earlier: Call[] = []) => verdictOn(asked, of, earlier).outcome;
    expect(outcome({ tool: 'update', args: { flights: [{ number: 1 }, { number: 2 }], id: 'A' } }, task)).toBe('approved');
    expect(outcome(write, task, [{ tool: 'other', args: write.args }])).toBe('approved');
    expect(outcome(write, task, [write])).toBe('denied');
    expect(outcome({ tool: 'other', args: write.args }, task)).toBe('denied');
    expect(outcome({ tool: 'update', args: { id: 'A', flights: [{ number: 2 }, { number: 1 }] } }, task)).toBe('denied');
    expect(outcome({ tool: 'update', args: { ...write.args, more: true } }, task)).toBe('denied');
    expect(outcome({ tool: 'update', args: null }, task)).toBe('denied');
    expect(outcome(write, { ...task, writes: [] })).toBe('denied');
    expect(outcome(write, undefined)).toBe('denied');
  });
});

describe('all 200 recorded runs, every write decided by the approver', () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let stateDir: string;
  let outcome: Outcome;
  let audit: { ok: boolean; grants: number; findings: unknown[] };
  let tried: ReplayReport;
  let effects: (Call & { run_id: string; call_id: string; idempotency_key: string })[];
  let replays: { recorded: Recorded; run_id: string; events: AuditEvent[] }[];

  beforeAll(async () => {
    folder = await temporaryFolder();
    stateDir = join(folder.path, 'state');
    const answer = await replay(['--json', '--state-dir', stateDir]).ended;
    if (answer.code !== 0) throw new Error(`exit code ${answer.code}: ${answer.stdout}\n${answer.stderr}`);
    outcome = JSON.parse(answer.stdout) as Outcome;
    effects = lines(join(stateDir, 'effects.jsonl'));
    // What was written is read after everything has been stopped and started again.
    const up = await startUp(stateDir, ['--config', CONFIG]);
    const { events } = (await holdpointJson<{ events: AuditEvent[] }>(['audit', 'list'], { stateDir })).data;
    audit = (await holdpointJson<typeof audit>(['audit', 'verify'], { stateDir })).data;
    tried = (await holdpointJson<ReplayReport>(['policy', 'replay', join(EXAMPLE, 'candidate.yaml')], { stateDir })).data;
    await stopUp(up);
    replays = recordings.map((recorded) => {
      const run_id = outcome.run_ids[recorded.id]!;
      return { recorded, run_id, events: events.filter((event) => event.run_id === run_id) };
    });
  }, 500_000);

  afterAll(async () => {
    await removeState(stateDir);
    await folder.remove();
  });

  test('the table counts 250 writes asked, 88 approved, 162 refused, 88 effects and none of them wrong', () => {
    expect(outcome).toMatchObject({ repeat_refusal_limit: 0, runs: 200, completed: 200, calls: 1164, reads_allowed: 914, reads_asked: 0, broken: [] });
    expect(outcome).toMatchObject({ writes_asked: 250, approved: 88, refused: 162, effects: 88, wrong_effects: 0 });
    expect(outcome).toMatchObject({ ungated: { wrong_writes: 162, accepted: 89 }, refused_in_right_runs: 14, writes_listed: 224, runs_asking: 118 });
  });

  test('every run plays its recording to the end, for the owner who started it', () => {
    for (const { recorded, events } of replays) {
      const [first, last] = [events[0]!, events.at(-1)!];
      expect([first.outcome, first.owner, first.detail], recorded.id).toEqual(['run_started', 'local-operator', tasks[recorded.task]!.goal]);
      expect([last.outcome, last.result], recorded.id).toEqual(['run_stopped', 'completed']);
    }
    expect(new Set(replays.map(({ run_id }) => run_id)).size).toBe(200);
  });

  test('a read is never asked about and every write is asked about exactly once, in call order', () => {
    for (const { recorded, events } of replays) expect(callsOf(events, 'approval_required'), recorded.id).toEqual(callsIn(recorded, isWrite));
  });

  test('the approver, under its own name, grants exactly the listed writes and denies the others', () => {
    for (const { recorded, events } of replays) {
      expect(callsOf(events, 'approval_granted'), recorded.id).toEqual(callsIn(recorded, (call) => isWrite(call) && isListed(recorded, call)));
      expect(callsOf(events, 'approval_denied'), recorded.id).toEqual(callsIn(recorded, (call) => isWrite(call) && !isListed(recorded, call)));
      const decisions = events.filter((event) => event.outcome === 'approval_granted' || event.outcome === 'approval_denied');
      expect(new Set(decisions.map(({ approver }) => approver)).size, recorded.id).toBe(decisions.length === 0 ? 0 : 1);
      for (const { approver } of decisions) expect(approver, recorded.id).toBe('local-approver');
    }
  });

  test('every read and every granted write was executed with the result ok, in call order, and nothing else was', () => {
    for (const { recorded, events } of replays) {
      expect(callsOf(events, 'allow'), recorded.id).toEqual(callsIn(recorded, (call) => !isWrite(call) || isListed(recorded, call)));
      for (const event of events.filter(({ outcome: name }) => name === 'allow')) expect(event.result, recorded.id).toBe('ok');
    }
  });

  test('the effects are the listed writes that the agents asked for: as many, with these arguments, in this order', () => {
    for (const { recorded, run_id } of replays) {
      const own = effects.filter((effect) => effect.run_id === run_id).map(({ tool, args, call_id }) => ({ tool, args, call_id }));
      const listed = placed(recorded).filter((call) => isWrite(call) && isListed(recorded, call));
      expect(own, recorded.id).toEqual(listed.map(({ tool, args, call_id }) => ({ tool, args, call_id })));
    }
    expect(effects).toHaveLength(88);
    expect(new Set(effects.map(({ idempotency_key }) => idempotency_key)).size).toBe(88);
  });

  test('a policy that lets bookings under 300 USD pass would have asked 18 questions fewer, and all 18 bookings were denied', () => {
    const paid = ({ args }: Call): number => (args as { payment_methods: { amount: number }[] }).payment_methods.reduce((sum, { amount }) => sum + amount, 0);
    const small = (call: Call): boolean => call.tool === 'book_reservation' && paid(call) < 300;
    const bookings = replays.flatMap(({ recorded, run_id }) =>
      placed(recorded)
        .filter(small)
        .map((call) => ({ recorded, run_id, call })),
    );
    expect(bookings.filter(({ recorded, call: { tool, args } }) => isListed(recorded, { tool, args }))).toEqual([]);
    expect(tried).toMatchObject({
      recorded: 1164,
      judged: 1164,
      unjudged: { erased: 0, altered: 0 },
      questions: { before: 250, now: 232, fewer: 18, more: 0 },
      newly: { allowed: 18, asked: 0, denied: 0 },
      newly_allowed: { approved: 0, denied: 18 },
      unanswered: [],
    });
    const passed = tried.changes.flatMap(({ calls }) => calls.map(({ run_id, call_id }) => `${run_id} ${call_id}`));
    expect(passed.sort()).toEqual(bookings.map(({ run_id, call }) => `${run_id} ${call.call_id}`).sort());
  });

  test('the audit trail verifies, before and after a restart, and counts one signed grant per effect', () => {
    expect(outcome.audit).toMatchObject({ ok: true, findings: [], grants: 88 });
    expect(audit).toMatchObject({ ok: true, findings: [], grants: 88 });
  });
});

test('with a limit of 3, the runs that insist are stopped at the third refusal, and the table says so', async () => {
  const { code, stdout } = await replay(['--limit', '3', ...REPEATING]).ended;
  const insisting = recordings.filter(({ id }) => REPEATING.includes(id));
  const asked = insisting.flatMap((recorded) => asks(recorded, 3).map((write) => isListed(recorded, write)));
  const approved = asked.filter((listed) => listed).length;
  expect(code).toBe(0);
  expect(stdout).toMatch(/^Airline runs, every write gated, repeat_refusal_limit: 3$/m);
  expect(stdout).toMatch(/^runs +4 +4 ended by repeated refusals$/m);
  expect(stdout).toMatch(new RegExp(`^  writes asked +${asked.length} `, 'm'));
  expect(stdout).toMatch(new RegExp(`^    approved +${approved} `, 'm'));
  expect(stdout).toMatch(new RegExp(`^    refused +${asked.length - approved} `, 'm'));
  expect(stdout).toMatch(new RegExp(`^effects executed +${approved} `, 'm'));
  expect(stdout).toMatch(/^ {2}of them wrong +0$/m);
  expect(stdout).toMatch(new RegExp(`^audit +ok .* ${approved} signed grants?$`, 'm'));
  for (const line of stdout.split('\n')) expect(line.length, line).toBeLessThan(60);
}, 120_000);

test("the approver is a process without the operator's key; Ctrl-C stops it and all others and removes the temporary state", async () => {
  const folder = await temporaryFolder();
  const { child, answer, ended } = replay([], { TMPDIR: folder.path });
  await eventually(() => (/of 200 runs/.test(answer.stderr) ? true : undefined), `the runs begin: ${answer.stderr}`, 90_000);
  const [state] = (await readdir(folder.path)).filter((name) => name.startsWith('holdpoint-airline-'));
  const elsewhere = await readFile(join(folder.path, state!, 'pg', 'location'), 'utf8').then(
    (text) => text.trim(),
    () => undefined,
  );
  const started = await descendantsOf(child.pid!);
  for (const part of [/main\.js up/, /approver\.ts/, /main\.js worker/, /main\.js serve/, /temporal/, /postgres/])
    expect(
      started.some(({ command }) => part.test(command)),
      String(part),
    ).toBe(true);
  const approver = started.find(({ command }) => /approver\.ts/.test(command))!;
  const { stdout: environmentOfIt } = await promisify(execFile)('ps', ['eww', '-o', 'args=', '-p', String(approver.identity.pid)]);
  const key = (name: string) => readFileSync(join(folder.path, state!, 'keys', `${name}.key`), 'utf8').trim();
  expect([environmentOfIt.includes(key('approver')), environmentOfIt.includes(key('operator'))]).toEqual([true, false]);
  child.kill('SIGINT');
  expect(await ended).toMatchObject({ code: 130, stdout: '' });
  expect(started.filter(({ identity }) => isRunning(identity)).map(({ command }) => command)).toEqual([]);
  expect((await readdir(folder.path)).filter((name) => name.startsWith('holdpoint-'))).toEqual([]);
  expect(elsewhere === undefined || !existsSync(elsewhere)).toBe(true);
  await folder.remove();
}, 150_000);

test('an argument that cannot be used is named, and nothing is started', async () => {
  expect(await replay(['--limit', 'three']).ended).toMatchObject({ code: 2, stdout: '', stderr: expect.stringContaining('--limit "three"') as string });
  expect(await replay(['airline-99-9']).ended).toMatchObject({
    code: 2,
    stdout: '',
    stderr: expect.stringContaining('there is no run airline-99-9') as string,
  });
});
