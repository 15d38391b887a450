/** `holdpoint policy` as a person uses it: no server, no state. */
import { readdirSync, readFileSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Explanation } from '../../adapters/policy-explain.ts';
import { holdpoint, holdpointJson } from '../e2e/cli.ts';
import { temporaryFolder } from '../support/index.ts';

const POLICY = `approvals: { required_for: [db.write] }
tiers: { high: { quorum: 2, ttl_seconds: 600 } }
tools: ["holdpoint:examples"]
policy:
  tool_blocklist: [crm.delete_contact]
  tool_tiers: { "ticket.*": high }
  rules:
    - id: mail-home
      tools: [email.send]
      when: args.to.endsWith("@example.com")
      effect: allow
    - id: mail-odd
      tools: [email.*]
      when: args.nothing == 1
      effect: approval_required
`;
const MAIL = { to: 'ann@example.com', subject: 'Hello', body: 'Hi' };

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let policy = '';
beforeAll(async () => {
  folder = await temporaryFolder();
  policy = await file('holdpoint.yaml', POLICY);
});
afterAll(() => folder.remove());

async function file(name: string, text: string): Promise<string> {
  const path = join(folder.path, name);
  await writeFile(path, text);
  return path;
}
const explain = async (call: unknown, args: string[] = [policy]): Promise<{ code: number | null; data: Explanation }> =>
  holdpointJson<Explanation>(['policy', 'explain', '-', ...args], { input: JSON.stringify(call) });

describe('policy explain', () => {
  test('shows the path of a call: scope, tier, each rule with its place and its condition, and what decided', async () => {
    const answer = await holdpoint(['policy', 'explain', '-'], { cwd: folder.path, input: JSON.stringify({ tool: 'email.send', args: MAIL }) });
    expect({ code: answer.code, stderr: answer.stderr }).toEqual({ code: 0, stderr: '' });
    expect(answer.stdout.split('\n').map((line) => line.trimEnd())).toEqual([
      'call      email.send, a write',
      'scope     inside',
      'tier      default',
      'rules     mail-home, holdpoint.yaml:8: allow; its condition holds',
      '          mail-odd, holdpoint.yaml:12: approval_required; its condition has no answer: missing_field (field not found: nothing)',
      'outcome   approval_required',
      'by        mail-odd, holdpoint.yaml:12',
      'because   rule mail-odd asks before email.send: its condition cannot be evaluated, a field that it looks at is not there',
      'asks for  1 vote within 300 s',
      '',
    ]);
  });

  test('says the same as JSON', async () => {
    const { code, data } = await explain({ tool: 'email.send', args: MAIL });
    expect(code).toBe(0);
    expect(data).toMatchObject({
      tool: 'email.send',
      kind: 'write',
      scope: null,
      line: 12,
      decision: { outcome: 'approval_required', rule: 'mail-odd', quorum: 1 },
    });
    expect(data.rules.map(({ id, line, condition }) => [id, line, condition])).toEqual([
      ['mail-home', 8, 'true'],
      ['mail-odd', 12, 'missing_field'],
    ]);
  });

  test('names the tier’s source, the key that is out of scope, the list that asks', async () => {
    const tier = await explain({ tool: 'ticket.close_bulk', args: { ticket_ids: ['t1'] } });
    expect(tier.data).toMatchObject({ tiers: [{ pattern: 'ticket.*', tier: 'high', line: 6 }], decision: { rule: 'tiers.high', quorum: 2, ttl_seconds: 600 } });
    const outside = await explain({ tool: 'crm.delete_contact', args: { contact_id: 'c1' } });
    expect(outside.data).toMatchObject({ scope: 'crm.delete_contact is on the blocklist', rules: [], line: 5, decision: { outcome: 'deny' } });
    const listed = await explain({ tool: 'db.write', args: { key: 'a', value: 'b' } });
    expect(listed.data).toMatchObject({ line: 1, decision: { outcome: 'approval_required', rule: 'approvals.required_for' } });
  });

  test('reads arguments as the gateway does: what does not fit the tool’s schema never reaches a rule', async () => {
    const { code, data } = await explain({ tool: 'email.send', args: { to: 'ann@example.com', colour: 'red' } });
    expect({ code, decision: data.decision.rule, rules: data.rules }).toEqual({ code: 0, decision: 'invalid_arguments', rules: [] });
    const odd = await holdpointJson<Explanation>(['policy', 'explain', '-', policy], { input: 'tool: x.y\nargs: { n: .nan }\n' });
    expect(odd.data.decision).toMatchObject({ outcome: 'deny', rule: 'invalid_arguments' });
    const big = await explain({ tool: 'x.y', args: { s: 'a'.repeat(300_000) } });
    expect(big.data.decision).toMatchObject({ rule: 'invalid_arguments', reason: expect.stringContaining('at most 262144') });
  });

  test('says of a tool that nobody registers for what it was taken', async () => {
    const answer = await holdpoint(['policy', 'explain', '-', policy], { input: '{"tool":"x.y"}' });
    expect(answer.stderr).toContain('no module registers x.y: it is taken for a write');
    expect((await explain({ tool: 'x.y', kind: 'read' })).data).toMatchObject({ notes: [], decision: { outcome: 'allow', rule: 'reads' } });
  });

  test.each([
    ['no call at all', ['policy', 'explain'], ''],
    ['no JSON or YAML', ['policy', 'explain', '-'], '{"tool":'],
    ['an unknown key, with its place', ['policy', 'explain', '-'], '{"tool":"a","arguments":{}}'],
    ['no tool', ['policy', 'explain', '-'], '{}'],
    ['a file that is not there', ['policy', 'explain', '/nowhere/call.json'], ''],
  ])('%s is refused with exit code 2', async (_name, args, input) => {
    const { code, stdout, stderr } = await holdpoint(args, { input });
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).not.toBe('');
  });
});

describe('policy check', () => {
  test('warns with line and column of rules that decide nothing; --strict refuses them', async () => {
    const path = await file(
      'warn.yaml',
      'policy:\n  rules:\n    - { id: all, tools: ["*"], effect: deny }\n    - { id: mail, tools: [email.send], effect: allow }\n',
    );
    const lax = await holdpoint(['policy', 'check', path]);
    expect(lax.code).toBe(0);
    expect(lax.stderr).toMatch(/warning: .*warn\.yaml:4:7: policy\.rules\.1: rule mail decides nothing: rule all always denies the same calls/);
    expect((await holdpoint(['policy', 'check', '--strict', path])).code).toBe(2);
  });

  test('refuses a condition that cannot work, at its character', async () => {
    const path = await file('cel.yaml', 'policy:\n  rules:\n    - { id: a, tools: [x], effect: deny, when: "arg.n > 1" }\n');
    const { code, stderr } = await holdpoint(['policy', 'check', path]);
    expect(code).toBe(2);
    expect(stderr).toMatch(/cel\.yaml:3:49: policy\.rules\.0\.when: there is no variable arg; known: args,/);
  });
});

describe('policy test', () => {
  test('says of each case whether it got what it expects, with its line; one that did not is exit code 1', async () => {
    const path = await file(
      'cases.yaml',
      [
        'policy: ./holdpoint.yaml',
        'cases:',
        '  - name: mail asks',
        '    call: { tool: email.send, args: { to: a@example.com, subject: s, body: b } }',
        '    expect: { outcome: approval_required, rule: mail-odd }',
        '  - name: tickets are free',
        '    call: { tool: ticket.close_bulk, args: { ticket_ids: [t1] } }',
        '    expect: { outcome: allow, quorum: 1 }',
        '',
      ].join('\n'),
    );
    const answer = await holdpoint(['policy', 'test', path]);
    expect(answer.code).toBe(1);
    expect(answer.stdout.split('\n')).toEqual([
      `ok    ${path}:3  mail asks`,
      `FAIL  ${path}:6  tickets are free: outcome is approval_required, not allow; quorum is 2, not 1`,
      '1 passed, 1 failed',
      '',
    ]);
    const { code, data } = await holdpointJson(['policy', 'test', path]);
    expect({ code, data }).toMatchObject({
      code: 1,
      data: {
        ok: false,
        passed: 1,
        failed: 1,
        cases: [
          { ok: true, line: 3 },
          { ok: false, line: 6 },
        ],
      },
    });
  });

  test('a file that is none is exit code 2', async () => {
    const path = await file('none.yaml', 'policy: ./holdpoint.yaml\ncases: []\n');
    expect((await holdpoint(['policy', 'test', path])).code).toBe(2);
    expect((await holdpoint(['policy', 'test', join(folder.path, 'nowhere.yaml')])).code).toBe(2);
    expect((await holdpoint(['policy', 'test'])).code).toBe(2);
  });
});

describe('the starter policies', () => {
  const here = new URL('../../examples/policies/', import.meta.url).pathname;
  const names = readdirSync(here).filter((name) => name.endsWith('.yaml') && !name.endsWith('.test.yaml'));

  test('are three, each with cases', () => {
    expect(names.sort()).toEqual(['coding.yaml', 'finance.yaml', 'support.yaml']);
    for (const name of names) expect(readFileSync(join(here, name.replace('.yaml', '.test.yaml')), 'utf8')).toContain(`policy: ./${name}`);
  });

  test.each(names)('%s has no warning, and its cases get what they expect', async (name) => {
    expect((await holdpoint(['policy', 'check', '--strict', join(here, name)])).code).toBe(0);
    const { code, data } = await holdpointJson<{ passed: number; failed: number }>(['policy', 'test', join(here, name.replace('.yaml', '.test.yaml'))]);
    expect({ code, failed: data.failed }).toEqual({ code: 0, failed: 0 });
    expect(data.passed).toBeGreaterThanOrEqual(10);
  });
});
