import { readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { hashJson } from '../../adapters/hashing.ts';
import { type FileProblem, loadPolicyFile, parsePolicy } from '../../adapters/policy-file.ts';
import { policyJsonSchema } from '../../adapters/policy-schema.ts';
import { parseRunFile } from '../../adapters/run-file.ts';
import { PolicyFile } from '../../core/contracts.ts';
import { isHoldpointError } from '../../core/errors.ts';
import { evaluatePolicy } from '../../core/policy.ts';
import { temporaryFolder } from '../support/index.ts';

const APPROVALS = `approvals:
  required_for: [email.send, ticket.close_bulk, db.write]
  ttl_seconds: 300
  fallback_when_not_approved: stop
`;
const BUDGETS = `version: 1
budgets: { max_steps: 25, max_tool_calls: 12, max_seconds: 60, max_usd: 1.00 }
policy: { tool_allowlist: [search.read, http.get] }        # tool_blocklist too; globs such as "crm.*"
writes: { require_approval: true, idempotency: true }
controls: { kill_switch: { enabled: true } }               # enabled = armed; engaging it is an operator's act
`;

interface Failure {
  code: string;
  message: string;
  problems: FileProblem[];
}

function failureOf(parse: () => unknown): Failure {
  try {
    parse();
  } catch (error) {
    if (!isHoldpointError(error)) throw error;
    return { code: error.code, message: error.message, problems: (error.details.problems ?? []) as FileProblem[] };
  }
  throw new Error('the file was taken');
}
const policyFailure = (text: string): Failure => failureOf(() => parsePolicy(text, 'holdpoint.yaml'));
const lineOf = (failure: Failure): string => failure.message.split('\n')[0] ?? '';

describe('the two documents of the reference', () => {
  test('the first loads as it is', () => {
    const { policy, warnings } = parsePolicy(APPROVALS, 'holdpoint.yaml');
    expect(policy.approvals).toMatchObject({
      required_for: ['email.send', 'ticket.close_bulk', 'db.write'],
      ttl_seconds: 300,
      fallback_when_not_approved: 'stop',
    });
    expect(warnings).toEqual([]);
  });

  test('the second loads as it is', () => {
    const { policy, warnings } = parsePolicy(BUDGETS, 'holdpoint.yaml');
    expect(policy.budgets).toEqual({ max_steps: 25, max_tool_calls: 12, max_seconds: 60, max_usd: 1 });
    expect(policy.policy.tool_allowlist).toEqual(['search.read', 'http.get']);
    expect(warnings).toEqual([]);
  });

  test('merged into one file they load, deny the three tools, and warn of that with the place of each', () => {
    const { policy, warnings } = parsePolicy(APPROVALS + BUDGETS, 'holdpoint.yaml');
    for (const tool of ['email.send', 'ticket.close_bulk', 'db.write']) {
      expect(evaluatePolicy(policy, { tool, kind: 'write', verified: true })).toMatchObject({ outcome: 'deny', rule: 'policy.tool_allowlist' });
    }
    expect(warnings.map(({ file, line, column, path }) => `${file}:${line}:${column} ${path}`)).toEqual([
      'holdpoint.yaml:2:18 approvals.required_for.0',
      'holdpoint.yaml:2:30 approvals.required_for.1',
      'holdpoint.yaml:2:49 approvals.required_for.2',
    ]);
    expect(warnings[0]?.message).toBe('email.send is not on policy.tool_allowlist: it is denied, nobody is ever asked');
  });
});

describe('defaults', () => {
  test.each([[''], ['# nothing but a comment\n'], ['{}'], ['version: 1\n'], ['\ufeffversion: 1\n']])('an empty file %j means every default', (text) => {
    expect(parsePolicy(text, 'x').policy).toEqual(PolicyFile.parse({}));
  });

  test('writes ask, the kill switch is armed, silence ends a run after five minutes', () => {
    expect(PolicyFile.parse({})).toEqual({
      version: 1,
      approvals: { required_for: [], ttl_seconds: 300, execute_within_seconds: 86_400, quorum: 1, repeat_refusal_limit: 3, fallback_when_not_approved: 'stop' },
      budgets: {},
      policy: { tool_blocklist: [], rules: [] },
      writes: { require_approval: true, idempotency: true },
      controls: { kill_switch: { enabled: true } },
      tools: [],
      planners: {},
    });
  });
});

describe('a file that cannot be used is refused with file, line and column', () => {
  test('an unknown key, with the nearest one that is known', () => {
    const failure = policyFailure('version: 1\napprovals:\n  ttl_second: 300\n');
    expect(failure.code).toBe('invalid_config');
    expect(failure.message).toBe('holdpoint.yaml:3:3: approvals.ttl_second: unknown key; did you mean ttl_seconds?');
    expect(failure.problems).toEqual([
      { file: 'holdpoint.yaml', line: 3, column: 3, path: 'approvals.ttl_second', message: 'unknown key; did you mean ttl_seconds?' },
    ]);
  });

  test('an unknown key that is near to none, with the keys that there are', () => {
    expect(policyFailure('writes: { colour: red }').message).toBe('holdpoint.yaml:1:11: writes.colour: unknown key; known here: require_approval, idempotency');
  });

  test('a key that is not known in a rule, by its index', () => {
    const failure = policyFailure('policy:\n  rules:\n    - id: a\n      tools: [x]\n      effect: deny\n      tiers: high\n');
    expect(failure.message).toBe('holdpoint.yaml:6:7: policy.rules.0.tiers: unknown key; did you mean tier?');
  });

  test('what tiers and rules will take and this version does not', () => {
    const failure = policyFailure(
      'tiers:\n  low: { limits: { per_run: 5 } }\npolicy:\n  rules:\n    - { id: a, tools: [x], effect: deny, approvers: [finance] }\n',
    );
    expect(failure.message.split('\n')).toEqual([
      'holdpoint.yaml:2:10: tiers.low.limits: not supported by this version',
      'holdpoint.yaml:5:42: policy.rules.0.approvers: not supported by this version',
    ]);
  });

  test('a duplicate key', () => {
    const failure = policyFailure('writes: { require_approval: true }\nwrites: { require_approval: false }\n');
    expect(lineOf(failure)).toMatch(/^holdpoint\.yaml:2:1: .*unique/i);
  });

  test('two rules with one id', () => {
    const failure = policyFailure('policy:\n  rules:\n    - { id: a, tools: [x], effect: deny }\n    - { id: a, tools: [y], effect: allow }\n');
    expect(failure.message).toBe('holdpoint.yaml:4:13: policy.rules.1.id: another rule has the id a');
  });

  test.each([
    ['approvals: { ttl_seconds: "300" }', '1:27', 'approvals.ttl_seconds', /expected (int|number)/],
    ['approvals: { ttl_seconds: 0 }', '1:27', 'approvals.ttl_seconds', />=1/],
    ['approvals: { ttl_seconds: 1.5 }', '1:27', 'approvals.ttl_seconds', /expected int/],
    ['approvals: { quorum: 0 }', '1:22', 'approvals.quorum', />=1/],
    ['approvals: { quorum: 21 }', '1:22', 'approvals.quorum', /<=20/],
    ['approvals: { fallback_when_not_approved: maybe }', '1:42', 'approvals.fallback_when_not_approved', /"stop"\|"continue"/],
    ['approvals: { required_for: email.send }', '1:28', 'approvals.required_for', /expected array/],
    ['approvals: { required_for: ["a b"] }', '1:29', 'approvals.required_for.0', /a tool name or glob/],
    ['budgets: { max_usd: .nan }', '1:21', 'budgets.max_usd', /expected number/],
    ['budgets: { max_usd: .inf }', '1:21', 'budgets.max_usd', /expected number|finite/],
    ['budgets: { max_steps: -1 }', '1:23', 'budgets.max_steps', />=1/],
    ['writes: { require_approval: yes }', '1:29', 'writes.require_approval', /expected boolean/],
    ['writes: null', '1:9', 'writes', /expected object/],
    ['version: 2', '1:10', 'version', /expected 1/],
    ['planners: { "1x": ./a.ts }', '1:', 'planners.1x', /./],
    ['policy: { rules: [{ id: a, effect: deny }] }', '1:19', 'policy.rules.0.tools', /expected array/],
    ['policy: { rules: [{ id: a, tools: [], effect: deny }] }', '1:35', 'policy.rules.0.tools', />=1/],
    ['- email.send', '1:1', '', /expected object/],
    ['just words', '1:1', '', /expected object/],
  ])('%s', (text, place, path, message) => {
    const failure = policyFailure(text);
    const [problem] = failure.problems;
    expect(failure.problems).toHaveLength(1);
    expect(`${problem?.line}:${problem?.column}`.startsWith(place), `${problem?.line}:${problem?.column}`).toBe(true);
    expect(problem?.path).toBe(path);
    expect(problem?.message).toMatch(message);
  });

  test('each of several problems, one a line', () => {
    const failure = policyFailure('writes: { require_approval: 1 }\nbudgets: { max_steps: many }\nnonsense: 1\n');
    expect(failure.problems).toHaveLength(3);
    expect(failure.message.split('\n')).toHaveLength(3);
  });

  test.each([
    ['two documents', 'version: 1\n---\nversion: 1\n', '2:1'],
    ['a tab as indentation', 'writes:\n\trequire_approval: true\n', '2:1'],
    ['an open bracket', 'approvals: { required_for: [email.send\n', ''],
    ['an open quote', 'version: "1\n', ''],
    ['a tag that nobody knows', 'writes: !!js/function "x"\n', '1:9'],
    ['an alias', 'approvals: &a { ttl_seconds: 1 }\nwrites: *a\n', '2:9'],
    ['a merge key', 'approvals: &a { ttl_seconds: 1 }\nwrites: { <<: *a }\n', ''],
    ['a control character', 'version: 1\nwri\u0007tes: {}\n', ''],
  ])('%s', (_name, text, place) => {
    const failure = policyFailure(text);
    expect(failure.code).toBe('invalid_config');
    expect(lineOf(failure)).toMatch(/^holdpoint\.yaml:\d+:\d+: ./);
    expect(lineOf(failure)).toContain(`holdpoint.yaml:${place}`);
  });

  test('a bomb of aliases, at once', () => {
    const bomb = [
      'a: &a [x,x,x,x,x,x,x,x,x]',
      ...'bcdefghi'.split('').map((name, index) => `${name}: &${name} [${Array(9).fill(`*${'abcdefghi'[index]}`).join(',')}]`),
    ].join('\n');
    const startedAt = performance.now();
    expect(policyFailure(bomb).message).toContain('anchors and aliases are not taken');
    expect(performance.now() - startedAt).toBeLessThan(500);
  });

  test.each([['__proto__: { writes: { require_approval: false } }'], ['writes: { __proto__: { require_approval: false } }'], ['constructor: 1']])(
    'a key from the language: %s',
    (text) => {
      const failure = policyFailure(text);
      expect(failure.message).toContain('unknown key');
      expect(({} as Record<string, unknown>).require_approval).toBeUndefined();
    },
  );

  test('a file of more than a megabyte', () => {
    expect(policyFailure(`# ${'x'.repeat(1_100_000)}`).message).toMatch(/holdpoint\.yaml has \d+ bytes; at most 1048576 are taken/);
  });

  test('a nesting that no stack holds', () => {
    expect(policyFailure(`approvals: ${'['.repeat(200_000)}`).code).toBe('invalid_config');
  });
});

describe('a file on disk', () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  beforeAll(async () => {
    folder = await temporaryFolder();
    await mkdir(join(folder.path, 'conf'));
  });
  afterAll(() => folder.remove());

  test('names its modules from where it stands, and leaves the built-in one as it is', async () => {
    const path = join(folder.path, 'conf', 'holdpoint.yaml');
    await writeFile(path, 'tools: [./tools.ts, ../shared.js, "holdpoint:examples", /opt/tools.js]\nplanners: { support: ./agent.ts }\n');
    const loaded = await loadPolicyFile(path);
    expect(loaded.tools).toEqual([join(folder.path, 'conf', 'tools.ts'), join(folder.path, 'shared.js'), 'holdpoint:examples', '/opt/tools.js']);
    expect(loaded.planners).toEqual({ support: join(folder.path, 'conf', 'agent.ts') });
    expect(loaded.path).toBe(path);
  });

  test('has the same hash whatever its comments, order and spelled-out defaults, and another for another policy', async () => {
    const write = async (name: string, text: string): Promise<string> => {
      await writeFile(join(folder.path, name), text);
      return (await loadPolicyFile(join(folder.path, name))).policy_hash;
    };
    const hash = await write('a.yaml', 'writes: { require_approval: true }\nbudgets: { max_steps: 5, max_usd: 1.00 }\n');
    expect(await write('b.yaml', '# another\nbudgets: { max_usd: 1, max_steps: 5 }\nversion: 1\n')).toBe(hash);
    expect(await write('c.yaml', 'budgets: { max_usd: 1, max_steps: 6 }\n')).not.toBe(hash);
    expect(hash).toBe(hashJson(PolicyFile.parse({ budgets: { max_steps: 5, max_usd: 1 } })));
  });

  test('that is not there is refused with its path', async () => {
    const path = join(folder.path, 'missing.yaml');
    await expect(loadPolicyFile(path)).rejects.toMatchObject({ code: 'invalid_config', message: expect.stringContaining(path) });
    await expect(loadPolicyFile(folder.path)).rejects.toMatchObject({ code: 'invalid_config' });
  });
});

test('names and globs that match no registered tool are named with their place', () => {
  const parsed = parsePolicy(
    'approvals: { required_for: [email.send, emial.send, "crm.*"] }\npolicy:\n  rules:\n    - { id: a, tools: [email.*, nothing.*], effect: deny }\n',
    'holdpoint.yaml',
  );
  const found = parsed.unmatched(['email.send', 'search.read']);
  expect(found.map(({ line, column, path, message }) => `${line}:${column} ${path}: ${message}`)).toEqual([
    '1:41 approvals.required_for.1: emial.send matches no registered tool',
    '1:53 approvals.required_for.2: crm.* matches no registered tool',
    '4:33 policy.rules.0.tools.1: nothing.* matches no registered tool',
  ]);
});

describe('the JSON Schema for editors', () => {
  test('is the one that is checked in (node scripts/schema.mjs writes it)', () => {
    expect(JSON.parse(readFileSync(new URL('../../holdpoint.schema.json', import.meta.url), 'utf8'))).toEqual(policyJsonSchema());
  });

  test('refuses unknown keys at every level', () => {
    const objects: Record<string, unknown>[] = [];
    const visit = (value: unknown): void => {
      if (typeof value !== 'object' || value === null) return;
      if ((value as { type?: unknown }).type === 'object') objects.push(value as Record<string, unknown>);
      Object.values(value).forEach(visit);
    };
    visit(policyJsonSchema());
    expect(objects.length).toBeGreaterThanOrEqual(8);
    expect(objects.filter((one) => one.additionalProperties !== false && one.propertyNames === undefined)).toEqual([]);
  });
});

describe('a run file', () => {
  const yaml = 'agent: support\nrequester: rita\nplanner:\n  type: script\n  calls:\n    - { tool: email.send, args: { to: a@example.com } }\n';

  test('reads the same from YAML and from JSON, however the JSON is laid out', () => {
    const run = parseRunFile(yaml, 'run.yaml');
    expect(run).toEqual({ agent: 'support', requester: 'rita', planner: { type: 'script', calls: [{ tool: 'email.send', args: { to: 'a@example.com' } }] } });
    for (const indent of [undefined, 2, '\t']) expect(parseRunFile(JSON.stringify(run, null, indent), 'run.json')).toEqual(run);
  });

  test('keeps every character of its arguments: emoji, escapes, long keys, keys from the language', () => {
    const args = JSON.parse(`{"text":"\\ud83d\\ude00 a\\/b \\u0000 \\u202e","__proto__":{"x":1},"${'k'.repeat(2_000)}":1,"empty":""}`) as unknown;
    const text = JSON.stringify({ agent: 'a', requester: 'r', planner: { type: 'script', calls: [{ tool: 't', args }] } }, null, 2);
    const { planner } = parseRunFile(text, 'run.json');
    expect(planner.type === 'script' && JSON.stringify(planner.calls[0]?.args)).toBe(JSON.stringify(args));
  });

  test.each([
    ['agent: support\n', 'run.yaml:1:1: requester: is missing: expected string'],
    [`${yaml}ttl_seconds: 0\n`, 'run.yaml:7:14: ttl_seconds: '],
    [`${yaml}ttl: 5\n`, 'run.yaml:7:1: ttl: unknown key; did you mean ttl_seconds?'],
    [yaml.replace('type: script', 'type: poem'), 'run.yaml:4:9: planner.type: '],
    [yaml.replace('tool: email.send, ', ''), 'run.yaml:6:7: planner.calls.0.tool: '],
    [yaml.replace('tool:', 'tol:'), 'run.yaml:6:9: planner.calls.0.tol: unknown key; did you mean tool?'],
    [yaml.replace('agent: support', 'agent: __proto__'), 'run.yaml:1:8: agent: '],
    ['{"agent": "a", "agent": "b"}', 'run.yaml:1:'],
    ['', 'run.yaml:1:1: '],
  ])('%j is refused with its place', (text, expected) => {
    const failure = failureOf(() => parseRunFile(text, 'run.yaml'));
    expect(failure.code).toBe('invalid_run');
    expect(failure.message).toContain(expected);
  });
});
