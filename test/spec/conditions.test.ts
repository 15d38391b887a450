import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { compileConditions, conditionFaults } from '../../adapters/cel.ts';
import { canonical } from '../../adapters/hashing.ts';
import { PolicyFile } from '../../core/contracts.ts';
import { type ConditionAnswer, factsOf, type PolicyCall } from '../../core/policy-facts.ts';

const NOW = new Date('2026-11-24T21:30:05.250Z');
const CALL: PolicyCall = {
  tool: 'billing.refund',
  kind: 'write',
  verified: true,
  idempotent: true,
  agent: 'helper',
  owner: 'ann',
  requester: 'rita',
  args: {
    amount: 250,
    currency: 'EUR',
    to: 'Ann@Example.com',
    note: null,
    lines: [
      { sku: 'a', n: 1 },
      { sku: 'b', n: 2 },
    ],
  },
  run: { run_id: 'run_1', goal: 'refund ann', steps: 3, tool_calls: 4, active_seconds: 1.5, usd: 0.25 },
  now: NOW,
};

function answer(when: string, about: Partial<PolicyCall> = {}): ConditionAnswer {
  const policy = PolicyFile.parse({
    policy: { rules: [{ id: 'r', tools: ['*'], effect: 'deny', when }] },
    agents: { helper: { roles: ['support', 'tier1'] } },
    owners: { ann: { roles: ['lead'] } },
  });
  return compileConditions(policy)(factsOf(policy, { ...CALL, ...about }))(when);
}
const problemOf = (found: ConditionAnswer): string => (typeof found === 'boolean' ? String(found) : found.problem);
const faults = (when: string): string[] => conditionFaults(when).map(({ offset, message }) => `${offset} ${message}`);

describe('a condition sees', () => {
  test.each([
    ['args.amount > 100', true],
    ['args.amount == 250 && args.currency in ["EUR", "USD"]', true],
    ['args["amount"] * 1.19 < 300.0', true],
    ['args.lines.exists(l, l.sku == "b" && l.n >= 2)', true],
    ['args.lines.all(l, l.n < 2)', false],
    ['args.lines.map(l, l.n).filter(n, n > 1.0).size() == 1', true],
    ['args.to.lowerAscii().endsWith("@example.com")', true],
    ['args.to.matches("^[A-Za-z]+@")', true],
    ['tool.name.startsWith("billing.") && tool.kind == "write" && tool.idempotent', true],
    ['agent.name == "helper" && "support" in agent.roles', true],
    ['owner != null && "lead" in owner.roles', true],
    ['requester == "rita" && requester != owner.name', true],
    ['run.tool_calls + 1 > 4 && run.usd < 0.5 && run.steps == 3', true],
    ['run.run_id == "run_1" && run.goal.contains("ann")', true],
    ['now > timestamp("2026-11-24T00:00:00Z") && now < timestamp("2026-11-24T00:00:00Z") + duration("24h")', true],
    ['now.getHours() == 21 && now.getMinutes() == 30 && now.getSeconds() == 5 && now.getMilliseconds() == 250', true],
    ['now.getHours("Europe/Berlin") == 22 && now.getHours("+05:30") == 3 && now.getDate("+05:30") == 25', true],
    ['now.getDayOfWeek() == 2 && now.getMonth() == 10 && now.getDayOfYear() == 327 && now.getFullYear() == 2026', true],
    ['int(args.amount) % 2 == 0', true],
    ['timestamp(1795555806) < now', false],
    ['sum(args.lines.map(l, l.n)) == 3.0 && sum([1, 2.5]) < 4 && sum([]) == 0.0', true],
    ['sum(args.lines.map(l, l.n * 0.1)) > 0.5', false],
  ])('%s is %s', (when, expected) => {
    expect(faults(when)).toEqual([]);
    expect(answer(when)).toBe(expected);
  });

  test('a key that holds null as one that is there', () => {
    expect(answer('has(args.note) && "note" in args && args.note == null')).toBe(true);
    expect(answer('has(args.other) || "other" in args')).toBe(false);
  });

  test('the same hour in every process: where clocks skip one hour, no hour is skipped', () => {
    const before = process.env.TZ;
    process.env.TZ = 'Europe/Berlin';
    try {
      expect(new Date(2026, 2, 29, 2, 30).getHours()).toBe(3);
      expect(answer('now.getHours() == 2', { now: new Date('2026-03-29T02:30:00Z') })).toBe(true);
      expect(answer('now.getDayOfYear() == 182', { now: new Date('2026-07-02T00:30:00Z') })).toBe(true);
    } finally {
      if (before === undefined) delete process.env.TZ;
      else process.env.TZ = before;
    }
  });
});

describe('the guide', () => {
  const guide = readFileSync(new URL('../../docs/policy.md', import.meta.url), 'utf8');
  const shown = /```\n(args\.[^`]*)```/.exec(guide)?.[1]?.trimEnd().split('\n') ?? [];

  test.each(shown.map((line) => line.split(/ {3,}/)[0] ?? ''))('shows %s, which is a condition', (when) => {
    expect(faults(when)).toEqual([]);
  });

  test('shows several', () => {
    expect(shown.length).toBeGreaterThan(5);
  });
});

describe('names from the language are data', () => {
  const args = JSON.parse('{"constructor":"c","__proto__":{"x":1},"toString":"t","nested":{"__proto__":"p"}}') as unknown;

  test('as keys they are found where they are given', () => {
    expect(answer('args.constructor == "c" && args.__proto__.x == 1 && args["toString"] == "t" && args.nested.__proto__ == "p"', { args })).toBe(true);
  });

  test.each(['args.constructor', 'args.__proto__', 'args.toString', 'args["hasOwnProperty"]', 'args.lines[0].valueOf'])(
    '%s is missing where it is not',
    (field) => {
      expect(problemOf(answer(`${field} == "x"`))).toBe('missing_field');
    },
  );

  test.each(['constructor', '__proto__', 'toString', 'process', 'globalThis'])('%s is no variable', (name) => {
    expect(faults(`${name} == "x"`)[0]).toMatch(/^0 there is no variable/);
    expect(faults(`has(${name}.x)`)[0]).toMatch(/there is no variable/);
  });

  test('nobody has a role because of a name', () => {
    expect(answer('agent.roles.size() == 0', { agent: 'constructor' })).toBe(true);
  });
});

describe('a condition without an answer says which kind of problem it is', () => {
  test.each([
    ['args.missing > 1', 'missing_field'],
    ['args.missing', 'missing_field'],
    ['args.lines[7].n > 1', 'missing_field'],
    ['args.lines.all(l, l.price > 1)', 'missing_field'],
    ['args.to > 1', 'type_mismatch'],
    ['args.amount + 1 > 2', 'type_mismatch'],
    ['args.amount.startsWith("2")', 'type_mismatch'],
    ['args.amount ? true : false', 'type_mismatch'],
    ['has(args.to.name)', 'type_mismatch'],
    ['sum(args.lines.map(l, l.sku)) > 1.0', 'type_mismatch'],
    ['sum(args.lines.map(l, l.price)) > 1.0', 'missing_field'],
    ['sum(args.amount) > 1.0', 'type_mismatch'],
    ['args.amount', 'not_boolean'],
    ['args.lines', 'not_boolean'],
    ['double(args.currency) < 1.0', 'failed'],
    ['double("") == 0.0', 'failed'],
    ['int("") == 0', 'failed'],
    ['int("0x10") == 16', 'failed'],
    ['int("99999999999999999999") > 0', 'failed'],
    ['1 / int(args.amount - 250.0) > 0', 'failed'],
    ['timestamp(args.currency) < now', 'failed'],
    ['now.getHours(args.currency) < 9', 'failed'],
  ])('%s: %s', (when, problem) => {
    expect(problemOf(answer(when))).toBe(problem);
  });

  test.each([
    ['args.amount > 1', { args: undefined }],
    ['now > timestamp("2026-01-01T00:00:00Z")', { now: undefined }],
    ['run.steps > 1', { run: undefined }],
    ['owner.name == "ann"', { owner: null }],
    ['tool.idempotent', { idempotent: undefined }],
    ['agent.name == "x"', { agent: undefined }],
    ['run.steps > 1', { run: { run_id: 'r' } }],
    ['run.usd > 1.0', { run: { run_id: 'r' } }],
    ['run.goal == "x"', { run: { run_id: 'r', steps: 0, tool_calls: 0, active_seconds: 0, usd: 0 } }],
  ] as [string, Partial<PolicyCall>][])('%s, when that is unknown: missing_field', (when, about) => {
    const known = Object.fromEntries(Object.entries({ ...CALL, ...about }).filter(([, value]) => value !== undefined)) as unknown as PolicyCall;
    const policy = PolicyFile.parse({ policy: { rules: [{ id: 'r', tools: ['*'], effect: 'deny', when }] } });
    expect(problemOf(compileConditions(policy)(factsOf(policy, known))(when))).toBe('missing_field');
  });

  test('no text of the call is in the kind, which is all that the audit gets', () => {
    const found = answer('timestamp(args.to) < now');
    expect(found).toMatchObject({ problem: 'failed', detail: expect.stringContaining('timestamp') });
  });
});

describe('a condition that cannot work is refused when the policy is loaded', () => {
  test.each([
    ['args.a >', '7 no CEL expression: found > but expecting end of input'],
    ['args.a > 1 1', '11 no CEL expression: found 1 but expecting end of input'],
    ['(args.a', '7 no CEL expression: found end of input here'],
    ['amount > 1', '0 there is no variable amount; known: args, tool, agent, owner, requester, run, now'],
    ['args.l.exists(x, y > 1)', '17 there is no variable y; known: args, tool, agent, owner, requester, run, now'],
    ['tool.nam == "x"', '4 tool has no field nam; known: name, kind, idempotent'],
    ['has(run.cost)', '0 run has no field cost; known: run_id, goal, steps, tool_calls, active_seconds, usd'],
    ['args.a.foo()', '6 there is no function foo'],
    ['args.a.replace("a", "b") == ""', '6 there is no function replace'],
    ['args.amount + 1.0', '12 it gives something else than true or false'],
    ['"yes"', '0 it gives something else than true or false'],
    ['args', '0 it gives something else than true or false'],
    ['[true]', '0 it gives something else than true or false'],
    ['sum(args.l)', '0 it gives something else than true or false'],
    ['size(args)', '0 it gives something else than true or false'],
    ['args.l.map(x, x)', '6 it gives something else than true or false'],
    ['args.a.matches("(")', '15 error parsing regexp: missing closing ): `(`'],
    ['args.a.matches("(a)\\\\1")', '15 error parsing regexp: invalid escape sequence: `\\1`'],
    ['args.a.matches("(?=a)")', '15 error parsing regexp: invalid or unsupported Perl syntax: `(?=`'],
    ['args.a.matches(args.b)', '6 the pattern of matches must be written out as text'],
    [`args.a.matches("${'a'.repeat(201)}")`, '6 the pattern has more than 200 characters'],
    ['cel.expr.Expr{} == args', expect.stringMatching(/there is no type/)],
    [`${'('.repeat(40)}true${')'.repeat(40)}`, '32 brackets stand more than 32 deep'],
    [`args${'.a'.repeat(400)} == 1`, '0 no CEL expression: it is nested too deep'],
    ['args.a.all(a, a.all(b, b.all(c, c.all(d, d > 1))))', expect.stringMatching(/more than 3 macros stand in each other/)],
  ])('%s', (when, expected) => {
    expect(faults(when)).toEqual(expect.arrayContaining([expected]));
    expect(problemOf(answer(when))).toBe('failed');
  });

  test('each of several faults is told', () => {
    expect(faults('amount > 1 && tool.nam == "x"')).toHaveLength(2);
  });
});

describe('what is made to be slow', () => {
  /** Of this process's own CPU: what others do on the machine says nothing about it. */
  const inTime = (work: () => ConditionAnswer, milliseconds = 500): string => {
    const before = process.cpuUsage();
    const found = problemOf(work());
    const { user, system } = process.cpuUsage(before);
    expect((user + system) / 1000).toBeLessThan(milliseconds);
    return found;
  };
  const list = (length: number): { l: number[] } => ({ l: Array.from({ length }, (_, index) => index) });

  test.each(['(a+)+$', '(a|a)*b', '(a|aa)+b', 'a{0,500}a{0,500}b', '(.*a){20}b', '(?:a?){200}a{200}b'])('the pattern %s on a long text', (pattern) => {
    const args = { s: `${'a'.repeat(20_000)}!` };
    expect(inTime(() => answer(`args.s.matches("${pattern}")`, { args }))).toBe('false');
  });

  test('a text that is longer than a pattern may walk', () => {
    expect(inTime(() => answer('args.s.matches("x$")', { args: { s: 'a'.repeat(100_000) } }))).toBe('too_large');
  });

  test('ten megabytes of text, and a list of a million', () => {
    expect(inTime(() => answer('args.s == "x"', { args: { s: 'a'.repeat(10_000_000) } }))).toBe('too_large');
    expect(inTime(() => answer('args.l[0] == 1', { args: list(1_000_000) }))).toBe('too_large');
  });

  test('arguments that are deeper than any stack', () => {
    let args: unknown = 1;
    for (let depth = 0; depth < 100_000; depth++) args = [args];
    expect(inTime(() => answer('args[0] == 1', { args }))).toBe('too_large');
  });

  test.each([
    ['args.l.all(a, args.l.all(b, a != b || a == b))'],
    ['args.l.all(a, args.l.all(b, args.l.all(c, true)))'],
    ['args.l.map(a, a).size() > 0'],
    ['args.l.all(a, sum(args.l) > 0.0)'],
    ['args.l.all(a, args.l == args.l)'],
    ['args.l.all(a, a in args.l)'],
    ['[args.l.filter(a, true)].all(m, m.all(a, m.all(b, true)))'],
    ['args.l.all(a, args.l + args.l != [])'],
  ])('%s over two thousand elements', (when) => {
    expect(faults(when)).toEqual([]);
    expect(inTime(() => answer(when, { args: list(2_000) }))).toBe('too_large');
  });

  test.each([
    ['args.l.all(a, args.missing == a)', 'missing_field'],
    ['args.l.exists(a, a > "x")', 'type_mismatch'],
    ['args.l.all(a, now.getHours(string(a)) > 0)', 'failed'],
  ])('%s, where every one of twenty thousand elements fails', (when, problem) => {
    expect(['too_large', problem]).toContain(inTime(() => answer(when, { args: list(20_000) })));
    expect(new Error('x').stack).toContain('conditions.test.ts');
  });

  test('what is usual is not too large: a hundred lines with a pattern each', () => {
    const args = { lines: Array.from({ length: 100 }, (_, n) => ({ sku: `sku-${n}`, n })) };
    expect(answer('args.lines.all(l, l.sku.matches("^sku-[0-9]+$") && l.n < 100.0) && args.lines.map(l, l.n).size() == 100', { args })).toBe(true);
  });

  test('what is small beside large arguments is not too large', () => {
    const args = { ...list(40_000), currency: 'EUR' };
    const once = '(args.currency in ["USD", "EUR"] && "support" in agent.roles && args.currency != "GBP")';
    expect(answer(Array(15).fill(once).join(' && '), { args })).toBe(true);
  });

  test('one condition that did too much takes nothing from the next', () => {
    const policy = PolicyFile.parse({
      policy: {
        rules: [
          { id: 'a', tools: ['*'], effect: 'deny', when: 'args.l.all(a, args.l.all(b, true))' },
          { id: 'b', tools: ['*'], effect: 'deny', when: 'args.l[3] == 3' },
        ],
      },
    });
    const ask = compileConditions(policy)(factsOf(policy, { ...CALL, args: list(2_000) }));
    expect(problemOf(ask('args.l.all(a, args.l.all(b, true))'))).toBe('too_large');
    expect(ask('args.l[3] == 3')).toBe(true);
  });
});

describe('what is no JSON is refused', () => {
  test.each([[{ n: Number.NaN }], [{ n: Number.POSITIVE_INFINITY }], [{ n: 1n }], [{ f: () => 1 }], [{ u: undefined }]])('%o by the evaluator', (args) => {
    expect(problemOf(answer('args == args', { args }))).toBe('failed');
  });

  test.each([[{ n: Number.NaN }], [{ n: 2 ** 53 + 2 }], [{ s: '\ud800' }], [{ '\udc00': 1 }]])(
    '%o has no canonical form, so no call with it is ever judged',
    (args) => {
      expect(() => canonical(args)).toThrow();
    },
  );
});
