/** What is wrong with a policy file, and what looks right and does nothing: each with its place. */
import { describe, expect, test } from 'vitest';
import { loadedPolicy, parsePolicy } from '../../adapters/policy-file.ts';
import { undefinedTiers } from '../../adapters/policy-lint.ts';
import { isHoldpointError } from '../../core/errors.ts';
import { evaluatePolicy } from '../../core/policy.ts';

function errors(text: string): string[] {
  try {
    parsePolicy(text, 'p.yaml');
  } catch (error) {
    if (isHoldpointError(error)) return error.message.split('\n');
    throw error;
  }
  return [];
}
const warnings = (text: string): string[] =>
  parsePolicy(text, 'p.yaml').warnings.map(({ line, column, path, message }) => `${line}:${column} ${path}: ${message}`);
const rules = (...lines: string[]): string => `policy:\n  rules:\n${lines.map((line) => `    - ${line}\n`).join('')}`;

describe('a condition that cannot work is told with the line and column of its own fault', () => {
  test.each([
    ['plain', 'id: a\n      tools: [x]\n      effect: deny\n      when: args.a > 1 && amount > 2', '6:27'],
    ['in double quotes', 'id: a\n      tools: [x]\n      effect: deny\n      when: "args.a > 1 && amount > 2"', '6:28'],
    ['in single quotes', "id: a\n      tools: [x]\n      effect: deny\n      when: 'args.a > 1 && amount > 2'", '6:28'],
    ['in flow style', '{ id: a, tools: [x], effect: deny, when: "amount > 2" }', '3:49'],
    ['as a block, on its line', 'id: a\n      tools: [x]\n      effect: deny\n      when: |\n        args.a > 1 &&\n        (args.b || amount > 2)', '8:20'],
    ['folded: where the text begins', 'id: a\n      tools: [x]\n      effect: deny\n      when: >\n        args.a > 1 &&\n        amount > 2', '6:13'],
    ['with an escape: where the text begins', 'id: a\n      tools: [x]\n      effect: deny\n      when: "args.a == \\"x\\" && amount > 2"', '6:13'],
  ])('%s', (_name, rule, place) => {
    expect(errors(rules(rule))).toEqual([
      `p.yaml:${place}: policy.rules.0.when: there is no variable amount; known: args, tool, agent, owner, requester, run, now`,
    ]);
  });

  test('a syntax error', () => {
    expect(errors(rules('{ id: a, tools: [x], effect: deny, when: "args.a ==" }'))).toEqual([
      'p.yaml:3:56: policy.rules.0.when: no CEL expression: found = but expecting end of input',
    ]);
  });

  test('no text, or one that is too long', () => {
    expect(errors(rules('{ id: a, tools: [x], effect: deny, when: true }'))[0]).toContain('policy.rules.0.when: Invalid input: expected string');
    expect(errors(rules('{ id: a, tools: [x], effect: deny, when: "" }'))).toHaveLength(1);
    expect(errors(rules(`{ id: a, tools: [x], effect: deny, when: "${'a'.repeat(2_001)}" }`))[0]).toContain('<=2000 characters');
  });
});

describe('tiers and roles that nobody defined are refused', () => {
  test.each([
    [rules('{ id: a, tools: [x], effect: deny, tier: money }'), '3:48: policy.rules.0.tier: tiers has no money; known: high, default, low'],
    ['policy: { tool_tiers: { "crm.*": money } }', '1:34: policy.tool_tiers.crm.*: tiers has no money; known: high, default, low'],
    ['tiers: { default: { quorum: 2 } }', '1:19: tiers.default: the default tier is what approvals says'],
    [rules('{ id: a, tools: [x], effect: deny, agent_roles: [support] }'), '3:56: policy.rules.0.agent_roles.0: nobody under agents has the role support'],
    [
      `${rules('{ id: a, tools: [x], effect: deny, owner_roles: [lead] }')}agents: { a: { roles: [lead] } }\n`,
      '3:56: policy.rules.0.owner_roles.0: nobody under owners has the role lead',
    ],
    ['tiers: { high: { qourum: 2 } }', '1:18: tiers.high.qourum: unknown key; did you mean quorum?'],
    ['tiers: { high: { quorum: 21 } }', '1:26: tiers.high.quorum: Too big: expected number to be <=20'],
    ['agents: { a: [support] }', '1:14: agents.a: Invalid input: expected object, received array'],
    ['agents: { __proto__: { roles: [] } }', '1:11: __proto__: unknown key: nothing can have this name'],
    ['policy: { role_tools: { a: [x], __proto__: [y] } }', '1:33: __proto__: unknown key: nothing can have this name'],
  ])('%s', (text, expected) => {
    const found = errors(text);
    expect(found).toHaveLength(1);
    expect(found[0]).toContain(`p.yaml:${expected}`);
  });
});

describe('a rule that decides nothing is a warning', () => {
  test('because its tools are out of scope', () => {
    expect(warnings(`${rules('{ id: a, tools: [db.write, db.drop], effect: allow }')}  tool_allowlist: [email.send]\n`)).toEqual([
      '3:7 policy.rules.0: rule a decides nothing: each of its tools is not on policy.tool_allowlist',
    ]);
    expect(warnings(`${rules('{ id: a, tools: ["crm.delete*"], effect: allow }')}  tool_blocklist: ["crm.*"]\n`)).toEqual([
      '3:7 policy.rules.0: rule a decides nothing: each of its tools is on policy.tool_blocklist',
    ]);
  });

  test.each([
    ['{ id: b, tools: ["*"], effect: deny }', '{ id: a, tools: [x.y], effect: allow, when: args.z }', 'always denies'],
    ['{ id: b, tools: ["x.*"], effect: approval_required }', '{ id: a, tools: [x.y, "x.z*"], effect: allow }', 'always asks before'],
    ['{ id: b, tools: ["x.*"], effect: deny }', '{ id: a, tools: [x.y], effect: approval_required, quorum: 2 }', 'always denies'],
  ])('because of %s', (strong, weak, words) => {
    for (const text of [rules(strong, weak), rules(weak, strong)])
      expect(warnings(text)).toEqual([expect.stringContaining(`rule a decides nothing: rule b ${words} the same calls`)]);
  });

  test.each([
    ['{ id: b, tools: ["x.*"], effect: deny, when: args.z }', '{ id: a, tools: [x.y], effect: allow }'],
    ['{ id: b, tools: ["x.y*"], effect: deny }', '{ id: a, tools: ["x.*"], effect: allow }'],
    ['{ id: b, tools: [x.y], effect: deny }', '{ id: a, tools: [x.y, x.z], effect: allow }'],
    ['{ id: b, tools: [x.y], effect: approval_required }', '{ id: a, tools: [x.y], effect: allow, tier: high }'],
    ['{ id: b, tools: [x.y], effect: allow }', '{ id: a, tools: [x.y], effect: approval_required }'],
  ])('but not where it may still count: %s and %s', (one, other) => {
    expect(warnings(rules(one, other))).toEqual(one.includes('allow }') ? [expect.stringContaining('rule b decides nothing')] : []);
  });

  test('a name under agents or owners without a role in policy.role_tools', () => {
    expect(warnings('policy: { role_tools: { support: [x] } }\nagents: { a: { roles: [support] }, b: { roles: [other] } }\n')).toEqual([
      '2:39 agents.b: no role of b is under policy.role_tools: everything that b takes part in is denied',
    ]);
  });

  test('patterns of tiers and roles that match no registered tool', () => {
    const found = parsePolicy('policy: { tool_tiers: { "crm.*": high, x: low }, role_tools: { a: [y, x] } }', 'p.yaml').unmatched(['x']);
    expect(found.map(({ line, column, path }) => `${line}:${column} ${path}`)).toEqual(['1:68 policy.role_tools.a.0', '1:34 policy.tool_tiers.crm.*']);
  });
});

test('a tool of a tier that the file does not define is a warning', () => {
  const parsed = parsePolicy('version: 1\ntiers: { money: { quorum: 2 } }\n', 'p.yaml');
  const tools = ['money', 'high', 'gold', undefined].map((tier, n) => ({ name: `tool${n}`, tier }));
  expect(undefinedTiers('p.yaml', parsed, tools)).toEqual([
    { file: 'p.yaml', line: 2, column: 8, path: 'tiers', message: 'tool2 is of tier gold, which is not defined here' },
  ]);
});

test('a loaded policy evaluates its own conditions', () => {
  const { policy, conditions } = loadedPolicy(parsePolicy(rules('{ id: a, tools: [x], effect: allow, when: "args.n < 3.0" }'), 'p.yaml').policy);
  const outcome = (n: number): string => evaluatePolicy(policy, { tool: 'x', kind: 'write', verified: true, args: { n } }, conditions).outcome;
  expect([outcome(1), outcome(5)]).toEqual(['allow', 'approval_required']);
});
