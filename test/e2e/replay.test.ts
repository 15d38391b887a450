/** `holdpoint policy replay` over calls that a real gateway judged. */
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { RunView } from '../../client/types.ts';
import type { ReplayReport } from '../../core/replay.ts';
import { eventually, temporaryFolder } from '../support/index.ts';
import { effects, emailRun, holdpoint, holdpointJson, removeState, script, startUp, stopUp, type Up } from './cli.ts';

type Answer = ReplayReport & { file: string; policy_hash: string; unknown_tools: string[] };

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let stateDir: string;
let up: Up;
const run = {} as Record<'approved' | 'denied' | 'silent' | 'outside' | 'read', RunView>;

/** By the shipped policy: a mail that is approved, one that is denied, a write that nobody answers, one out of scope, a read. */
beforeAll(async () => {
  folder = await temporaryFolder();
  stateDir = join(folder.path, 'state');
  up = await startUp(stateDir);
  const start = async (input: string, ...args: string[]): Promise<RunView> => (await holdpointJson<RunView>(['run', '-', ...args], { stateDir, input })).data;
  for (const [name, verb] of [
    ['approved', 'approve'],
    ['denied', 'deny'],
  ] as const) {
    run[name] = await start(emailRun());
    await holdpoint([verb, run[name].pending_id!], { stateDir });
  }
  run.silent = await start(script('db.write', { key: 'replay', value: 1 }, { ttl_seconds: 1 }), '--wait');
  run.outside = await start(script('crm.delete_contact', { contact_id: 'C-1' }), '--wait');
  run.read = await start(script('search.read', { query: 'replay' }), '--wait');
  for (const name of ['approved', 'denied'] as const) {
    const ended = async (): Promise<true | undefined> =>
      (await holdpointJson<RunView>(['show', run[name].run_id], { stateDir })).data.status === 'stopped' ? true : undefined;
    await eventually(ended, `the run that was ${name} ends`);
  }
}, 180_000);
afterAll(async () => {
  if (up !== undefined) await stopUp(up);
  await removeState(stateDir);
  await folder.remove();
});

async function candidate(name: string, text: string): Promise<string> {
  const file = join(folder.path, name);
  await writeFile(file, text);
  return file;
}
const replay = (file: string, ...args: string[]) => holdpointJson<Answer>(['policy', 'replay', file, ...args], { stateDir });

const MAIL = 'tools: ["holdpoint:examples"]\npolicy: { rules: [{ id: home, tools: [email.send], when: args.to.endsWith("@example.com"), effect: allow }] }\n';

describe('policy replay', () => {
  test('counts the questions that a candidate saves, and what people had made of the calls that would pass', async () => {
    const file = await candidate('mail.yaml', MAIL);
    const before = await effects(stateDir);
    const { code, data } = await replay(file);
    expect({ code, ...data }).toMatchObject({
      code: 0,
      file,
      policy_hash: expect.stringMatching(/^sha256:/) as string,
      recorded: 5,
      judged: 5,
      unjudged: { erased: 0, altered: 0 },
      questions: { before: 3, now: 2, fewer: 2, more: 1 },
      newly: { allowed: 2, asked: 1, denied: 0 },
      newly_allowed: { approved: 1, denied: 1, timed_out: 0 },
      unanswered: [],
      unknown_tools: [],
    });
    expect(data.changes.map(({ tool, before: was, now }) => [tool, was.outcome, now.outcome, now.rule])).toEqual([
      ['email.send', 'approval_required', 'allow', 'home'],
      ['crm.delete_contact', 'deny', 'approval_required', 'writes.require_approval'],
    ]);
    expect(data.changes[0]?.calls.map(({ run_id, answer }) => [run_id, answer])).toEqual([
      [run.approved.run_id, 'approved'],
      [run.denied.run_id, 'denied'],
    ]);
    expect(await effects(stateDir)).toEqual(before);
  });

  test('tells a person the same: counts, then what changes, what people denied first, and how to see them all', async () => {
    const file = await candidate('mail.yaml', MAIL);
    const { code, stdout, stderr } = await holdpoint(['policy', 'replay', file, '--examples', '1', '--since', '1d'], { stateDir });
    expect(code).toBe(0);
    expect(stdout).toMatch(/^calls judged +5$/m);
    expect(stdout).toMatch(/^questions +3 before, 2 now: 2 fewer, 1 more$/m);
    expect(stdout).toMatch(/^newly allowed +2: 1 approved by people, 1 denied by people$/m);
    expect(stdout).toMatch(/^email\.send {2}approval_required \(.+\) → allow \(home\)$/m);
    expect(stdout).toContain(`${run.denied.run_id} 1.1  ${run.denied.pending_id}  denied`);
    expect(stdout).not.toContain(run.approved.run_id);
    expect(stdout).toMatch(/^ {2}and 1 more$/m);
    expect(stderr).toContain(`policy replay ${file} --since 1d --json`);
  });

  test('takes one run, or what was judged since a time', async () => {
    const file = await candidate('mail.yaml', MAIL);
    expect((await replay(file, '--run', run.denied.run_id)).data).toMatchObject({ recorded: 1, newly_allowed: { approved: 0, denied: 1 } });
    expect((await replay(file, '--since', '2100-01-01')).data).toMatchObject({ recorded: 0, changes: [] });
  });

  test('judges by the record where the candidate defines no tool, and says so', async () => {
    const file = await candidate('bare.yaml', 'version: 1\n');
    const { code, data } = await replay(file);
    expect(code).toBe(0);
    expect(data.unknown_tools).toEqual(['crm.delete_contact', 'db.write', 'email.send', 'search.read']);
    expect(data).toMatchObject({ questions: { before: 3, now: 4 }, newly: { allowed: 0, asked: 1, denied: 0 } });
  });

  test('says how many calls a condition decided that had no answer', async () => {
    const file = await candidate('late.yaml', 'policy: { rules: [{ id: late, tools: ["*"], when: run.steps > 3, effect: allow }] }\n');
    const { stdout } = await holdpoint(['policy', 'replay', file], { stateDir });
    expect(stdout).toMatch(/^no answer +5 calls decided by a condition without an answer$/m);
    expect(stdout).toMatch(/late on 5 calls: missing_field \(field not found: steps\)/);
  });

  test.each([
    ['an unknown key', 'version: 1\nrulez: []\n', /wrong\.yaml:2:1: /],
    ['a condition that cannot work', 'policy:\n  rules:\n    - { id: a, tools: [x], effect: deny, when: "arg.n > 1" }\n', /wrong\.yaml:3:49: /],
  ])('refuses %s with exit code 2 and the place, whatever the server', async (_what, text, place) => {
    const file = await candidate('wrong.yaml', text);
    for (const where of [stateDir, join(folder.path, 'nothing')]) {
      const { code, stdout, stderr } = await holdpoint(['policy', 'replay', file], { stateDir: where });
      expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
      expect(stderr).toMatch(place);
    }
  });

  test('does not guess at arguments that were erased', async () => {
    const file = await candidate('mail.yaml', MAIL);
    const database = new pg.Client(up.addresses.database_url);
    await database.connect();
    await database.query(`DELETE FROM arguments WHERE tool = 'email.send'`);
    await database.end();
    expect((await replay(file)).data).toMatchObject({ recorded: 5, judged: 3, unjudged: { erased: 2, altered: 0 }, newly: { allowed: 0, asked: 1 } });
    const { stdout } = await holdpoint(['policy', 'replay', file], { stateDir });
    expect(stdout).toMatch(/^calls judged +3 of 5; the arguments of the others: 2 erased$/m);
  });

  test('ends with 2 without a file or with a time that is none, with 7 without a server', async () => {
    const file = await candidate('mail.yaml', MAIL);
    expect((await holdpoint(['policy', 'replay'], { stateDir })).code).toBe(2);
    expect((await holdpoint(['policy', 'replay', join(folder.path, 'none.yaml')], { stateDir })).code).toBe(2);
    expect((await holdpoint(['policy', 'replay', file, '--since', 'yesterday'], { stateDir })).code).toBe(2);
    expect((await holdpoint(['policy', 'replay', file], { stateDir: join(folder.path, 'nothing') })).code).toBe(7);
  });
});
