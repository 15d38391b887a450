/** Rules with conditions, tiers and roles: what decides, and what holds for every policy. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { z } from 'zod';
import { compileConditions } from '../../adapters/cel.ts';
import { PolicyFile, type Rule } from '../../core/contracts.ts';
import { considerRules, evaluatePolicy, type PolicyDecision } from '../../core/policy.ts';
import type { ConditionAnswer, PolicyCall } from '../../core/policy-facts.ts';

type Written = z.input<typeof PolicyFile>;
type WrittenRule = z.input<typeof Rule>;

const call = (more: Partial<PolicyCall> = {}): PolicyCall => ({
  tool: 'billing.refund',
  kind: 'write',
  verified: true,
  agent: 'helper',
  owner: 'ann',
  args: { amount: 250 },
  ...more,
});
function decide(file: Written, more: Partial<PolicyCall> = {}): PolicyDecision {
  const policy = PolicyFile.parse(file);
  return evaluatePolicy(policy, call(more), compileConditions(policy));
}
const rules = (...list: WrittenRule[]): Written => ({ policy: { rules: list } });
const rule = (id: string, effect: WrittenRule['effect'], when?: string, more: Partial<WrittenRule> = {}): WrittenRule => ({
  id,
  tools: ['billing.*'],
  effect,
  ...(when === undefined ? {} : { when }),
  ...more,
});

describe('a rule with a condition', () => {
  test('counts where the condition holds and is not there where it does not', () => {
    const file = rules(rule('small', 'allow', 'args.amount <= 100.0'), rule('large', 'approval_required', 'args.amount > 100.0', { quorum: 2 }));
    expect(decide(file, { args: { amount: 50 } })).toMatchObject({ outcome: 'allow', rule: 'small' });
    expect(decide(file, { args: { amount: 500 } })).toMatchObject({ outcome: 'approval_required', rule: 'large', quorum: 2 });
    expect(decide(rules(rule('large', 'deny', 'args.amount > 900.0')))).toMatchObject({ outcome: 'approval_required', rule: 'writes.require_approval' });
  });

  test.each([
    ['allow', 'approval_required'],
    ['approval_required', 'approval_required'],
    ['deny', 'deny'],
  ] as const)('and the effect %s, where the condition cannot be evaluated, is %s', (effect, outcome) => {
    const decision = decide({ ...rules(rule('odd', effect, 'args.missing > 1.0')), writes: { require_approval: false } });
    expect(decision).toMatchObject({
      outcome,
      rule: 'odd',
      reason: expect.stringContaining('its condition cannot be evaluated, a field that it looks at is not there'),
    });
  });

  test('gives people a reason that quotes no argument', () => {
    const { reason } = decide(rules(rule('odd', 'deny', 'timestamp(args.secret) > now')), { args: { secret: 'hunter2' }, now: new Date() });
    expect(reason).toBe('rule odd denies billing.refund: its condition cannot be evaluated, its evaluation failed');
  });

  test('asks when nobody is there to evaluate it', () => {
    const policy = PolicyFile.parse(rules(rule('a', 'allow', 'true')));
    expect(evaluatePolicy(policy, call())).toMatchObject({ outcome: 'approval_required', rule: 'a' });
  });

  test('is not evaluated for a call that is out of scope', () => {
    const policy = PolicyFile.parse({ policy: { tool_blocklist: ['billing.*'], rules: [rule('a', 'allow', 'true')] } });
    const refuse = (): never => {
      throw new Error('evaluated');
    };
    expect(evaluatePolicy(policy, call(), refuse)).toMatchObject({ outcome: 'deny', rule: 'policy.tool_blocklist' });
  });

  test('only makes an unverified run stricter', () => {
    expect(decide(rules(rule('a', 'allow', 'true')), { verified: false })).toMatchObject({ outcome: 'approval_required', rule: 'unverified' });
    expect(decide(rules(rule('q', 'approval_required', 'args.amount > 1.0', { quorum: 3 })), { verified: false })).toMatchObject({
      rule: 'unverified',
      quorum: 3,
    });
    expect(decide(rules(rule('d', 'deny', 'args.missing')), { verified: false })).toMatchObject({ outcome: 'deny', rule: 'd' });
  });
});

describe('a tier', () => {
  test('is the one that a rule names, or that policy.tool_tiers names for the tool, else default', () => {
    expect(decide({})).toMatchObject({ tier: 'default' });
    expect(decide(rules(rule('a', 'approval_required', undefined, { tier: 'high' })))).toMatchObject({ tier: 'high' });
    expect(decide({ policy: { tool_tiers: { 'billing.*': 'low' } } })).toMatchObject({ tier: 'low' });
  });

  test('of the tool’s own definition counts while the file names none for the tool', () => {
    expect(decide({}, { tool_tier: 'high' })).toMatchObject({ tier: 'high', outcome: 'approval_required', rule: 'tiers.high' });
    expect(decide({}, { tool_tier: 'low' })).toMatchObject({ tier: 'low', outcome: 'allow' });
    expect(decide({ policy: { tool_tiers: { 'billing.*': 'low' } } }, { tool_tier: 'high' })).toMatchObject({ tier: 'low' });
    expect(decide(rules(rule('a', 'allow', undefined, { tier: 'high' })), { tool_tier: 'low' })).toMatchObject({ tier: 'high' });
  });

  test('named by a rule whose condition does not hold is not named', () => {
    expect(decide(rules(rule('a', 'approval_required', 'args.amount > 900.0', { tier: 'high' })))).toMatchObject({ tier: 'default' });
  });

  test('high: approval is mandatory, whatever allows the call', () => {
    const lax: Written = { policy: { tool_tiers: { 'billing.*': 'high' }, rules: [rule('a', 'allow')] }, writes: { require_approval: false } };
    expect(decide(lax)).toMatchObject({ outcome: 'approval_required', rule: 'tiers.high', tier: 'high' });
    expect(decide(lax, { kind: 'read' })).toMatchObject({ outcome: 'approval_required', rule: 'tiers.high' });
    expect(decide(rules(rule('a', 'allow', undefined, { tier: 'high' })))).toMatchObject({ outcome: 'approval_required', rule: 'tiers.high' });
  });

  test('low: a write goes through unasked, unless something asks or the run is unverified', () => {
    const low: Written = { policy: { tool_tiers: { 'billing.*': 'low' } } };
    expect(decide(low)).toMatchObject({ outcome: 'allow', rule: 'tiers.low', tier: 'low' });
    expect(decide(low, { verified: false })).toMatchObject({ outcome: 'approval_required', rule: 'unverified' });
    expect(decide({ ...low, approvals: { required_for: ['billing.refund'] } })).toMatchObject({ outcome: 'approval_required' });
    expect(decide({ policy: { ...low.policy, rules: [rule('a', 'allow', 'args.missing', { tier: 'low' })] } })).toMatchObject({
      outcome: 'approval_required',
      rule: 'a',
    });
    expect(decide({ policy: { ...low.policy, rules: [rule('d', 'deny')] } })).toMatchObject({ outcome: 'deny', rule: 'd' });
    expect(decide(low, { kind: 'maybe' as 'read' })).toMatchObject({ outcome: 'deny', rule: 'policy' });
  });

  test('of several the strictest counts: high, the file’s own, default, low', () => {
    const tiers = { money: {}, small: {} };
    const of = (...named: string[]): string =>
      decide({ tiers, policy: { rules: named.map((tier, n) => rule(`r${n}`, 'approval_required', undefined, { tier })) } }).tier;
    expect(of('low', 'high', 'money')).toBe('high');
    expect(of('low', 'default', 'money')).toBe('money');
    expect(of('low', 'default')).toBe('default');
    expect(of('small', 'money')).toBe('money');
  });

  test('of the file’s own the one with the larger quorum, then the shorter time, is stricter', () => {
    const pick = (tiers: Written['tiers']): string => decide({ tiers, policy: { tool_tiers: { 'billing.*': 'a', '*': 'b' } } }).tier;
    expect(pick({ a: {}, b: { quorum: 2 } })).toBe('b');
    expect(pick({ a: { quorum: 2, ttl_seconds: 60 }, b: { quorum: 2, ttl_seconds: 30 } })).toBe('b');
    expect(pick({ a: {}, b: {} })).toBe('a');
  });

  test('sets quorum and time of its calls; a rule may ask for more of them, not for less', () => {
    const tiers = { money: { quorum: 2, ttl_seconds: 600 } };
    const tool_tiers = { 'billing.*': 'money' };
    expect(decide({ tiers, policy: { tool_tiers } })).toMatchObject({ tier: 'money', quorum: 2, ttl_seconds: 600 });
    const strict = rule('s', 'approval_required', undefined, { quorum: 3, ttl_seconds: 60 });
    expect(decide({ tiers, policy: { tool_tiers, rules: [strict] } })).toMatchObject({ rule: 's', quorum: 3, ttl_seconds: 60 });
    const lax = rule('l', 'approval_required', undefined, { quorum: 1, ttl_seconds: 9_000 });
    expect(decide({ tiers, policy: { tool_tiers, rules: [lax] } })).toMatchObject({ rule: 'l', quorum: 2, ttl_seconds: 600 });
  });

  test('high without a quorum of its own has that of approvals as its least', () => {
    const lax = rule('l', 'approval_required', undefined, { quorum: 1, tier: 'high' });
    expect(decide({ approvals: { quorum: 2 }, policy: { rules: [lax] } })).toMatchObject({ tier: 'high', quorum: 2 });
  });
});

describe('roles', () => {
  const scoped: Written = {
    policy: { role_tools: { support: ['ticket.*', 'billing.refund'], reader: ['search.*'] } },
    agents: { helper: { roles: ['support'] }, idle: { roles: [] } },
  };

  test('hold an agent to the tools of its roles, before anything is asked', () => {
    expect(decide(scoped)).toMatchObject({ outcome: 'approval_required' });
    expect(decide(scoped, { tool: 'db.write' })).toMatchObject({
      outcome: 'deny',
      rule: 'policy.role_tools',
      reason: 'db.write is outside the roles of agent helper',
    });
    expect(decide({ ...scoped, approvals: { required_for: ['db.write'] } }, { tool: 'db.write' })).toMatchObject({ outcome: 'deny' });
  });

  test.each(['idle', 'stranger', 'unverified', 'constructor', '__proto__'])('agent %s has none, and may do nothing', (agent) => {
    expect(decide(scoped, { agent })).toMatchObject({ outcome: 'deny', rule: 'policy.role_tools' });
  });

  test('hold the owner as well as the agent', () => {
    const both: Written = { ...scoped, owners: { ann: { roles: ['support'] }, bob: { roles: ['reader'] } } };
    expect(decide(both)).toMatchObject({ outcome: 'approval_required' });
    expect(decide(both, { owner: 'bob' })).toMatchObject({ outcome: 'deny', reason: 'billing.refund is outside the roles of owner bob' });
    expect(decide(both, { owner: null, verified: false })).toMatchObject({ outcome: 'deny', reason: 'billing.refund is outside the roles of owner (none)' });
  });

  test('scope nobody without policy.role_tools, nor a side that the file does not list', () => {
    expect(decide({ agents: { helper: { roles: [] } } })).toMatchObject({ outcome: 'approval_required' });
    expect(decide(scoped, { owner: 'whoever' })).toMatchObject({ outcome: 'approval_required' });
  });

  test('are what a rule may be for', () => {
    const file: Written = {
      policy: { rules: [rule('trusted', 'allow', undefined, { agent_roles: ['support', 'x'], owner_roles: ['lead'] })] },
      agents: { helper: { roles: ['support'] } },
      owners: { ann: { roles: ['lead'] } },
    };
    expect(decide(file)).toMatchObject({ outcome: 'allow', rule: 'trusted' });
    expect(decide(file, { owner: 'bob' })).toMatchObject({ outcome: 'approval_required' });
    expect(decide(file, { agent: 'other' })).toMatchObject({ outcome: 'approval_required' });
  });
});

/** Conditions in CEL that hold, do not, or cannot be told, by arguments that are random too. */
const REAL = {
  when: fc.constantFrom(
    'args.n > 2.0',
    'args.n <= 2.0 || args.s == "a"',
    'args.s.startsWith("a")',
    'has(args.l) && args.l.exists(x, x > 1.0)',
    'args.l.all(x, x < args.n)',
    '!(args.s in ["a", "b"])',
    '"a" in agent.roles',
    'owner != null && owner.name == "ann"',
    'args.__proto__.n > 0.0 || args.constructor == "c"',
    'args.n',
    undefined,
  ),
  args: fc.oneof(
    fc.record(
      {
        n: fc.oneof(fc.integer({ min: 0, max: 5 }), fc.string()),
        s: fc.constantFrom('a', 'b', '', 7),
        l: fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 4 }),
      },
      { requiredKeys: [] },
    ),
    fc.json().map((text) => JSON.parse(text) as unknown),
    fc.constantFrom(JSON.parse('{"__proto__":{"n":1},"constructor":"c"}') as unknown, null, [], 'text'),
  ),
  conditions: (policy: PolicyFile) => compileConditions(policy),
};
/** The same with answers that are given: every kind, at once. */
const ANSWERS = new Map<string, ConditionAnswer>([
  ['yes', true],
  ['no', false],
  ['missing', { problem: 'missing_field', detail: '' }],
  ['large', { problem: 'too_large', detail: '' }],
]);
const GIVEN = {
  when: fc.constantFrom('yes', 'no', 'missing', 'large', undefined),
  args: fc.constant({}),
  conditions: (_policy: PolicyFile) => () => (when: string) => ANSWERS.get(when) ?? { problem: 'missing_field' as const, detail: '' },
};

describe.each([
  ['in CEL', REAL],
  ['with given answers', GIVEN],
])('for every policy with conditions %s', (_name, { when, args, conditions }) => {
  const tier = fc.constantFrom('high', 'low', 'default', 'money', 'small', undefined);
  const tools = ['email.send', 'crm.update', 'crm.delete', 'search.read'];
  const pattern = fc.constantFrom('*', 'crm.*', '*.send', 'nothing.*', ...tools);
  const oneRule = fc
    .record({
      tools: fc.array(pattern, { minLength: 1, maxLength: 2 }),
      effect: fc.constantFrom('allow' as const, 'deny' as const, 'approval_required' as const),
      when,
      tier,
      quorum: fc.option(fc.integer({ min: 1, max: 4 }), { nil: undefined }),
      ttl_seconds: fc.option(fc.integer({ min: 1, max: 900 }), { nil: undefined }),
      agent_roles: fc.constantFrom(['a'], ['b'], undefined),
      owner_roles: fc.constantFrom(['a'], ['b'], undefined),
    })
    .map((one) => JSON.parse(JSON.stringify(one)) as Omit<WrittenRule, 'id'>);
  const withIds = (list: readonly Omit<WrittenRule, 'id'>[]): WrittenRule[] => list.map((one, index) => ({ ...one, id: `r${index}` }));
  const terms = fc
    .record({
      quorum: fc.option(fc.integer({ min: 1, max: 3 }), { nil: undefined }),
      ttl_seconds: fc.option(fc.integer({ min: 1, max: 900 }), { nil: undefined }),
    })
    .map((one) => JSON.parse(JSON.stringify(one)) as { quorum?: number; ttl_seconds?: number });
  const file = fc.record({
    rules: fc.array(oneRule, { maxLength: 7 }).map(withIds),
    tiers: fc.record({ high: terms, low: terms, money: terms, small: terms }),
    tool_tiers: fc.dictionary(pattern, fc.constantFrom('high', 'low', 'default', 'money', 'small'), { maxKeys: 2 }),
    role_tools: fc.option(fc.record({ a: fc.array(pattern, { maxLength: 2 }), b: fc.array(pattern, { maxLength: 2 }) }), { nil: undefined }),
    agents: fc.option(fc.constantFrom({ helper: { roles: ['a'] } }, { helper: { roles: ['a', 'b'] } }, { other: { roles: ['a'] } }), { nil: undefined }),
    owners: fc.option(fc.constantFrom({ ann: { roles: ['a'] } }, { ann: { roles: ['b'] } }), { nil: undefined }),
    required_for: fc.array(pattern, { maxLength: 1 }),
    require_approval: fc.boolean(),
  });
  type File = typeof file extends fc.Arbitrary<infer T> ? T : never;
  const parsed = (from: File, list = from.rules): PolicyFile =>
    PolicyFile.parse(
      JSON.parse(
        JSON.stringify({
          tiers: from.tiers,
          approvals: { required_for: from.required_for },
          policy: { rules: list, tool_tiers: from.tool_tiers, role_tools: from.role_tools },
          agents: from.agents,
          owners: from.owners,
          writes: { require_approval: from.require_approval },
        }),
      ),
    );
  const anyCall = fc.record({
    tool: fc.constantFrom(...tools),
    kind: fc.constantFrom('read' as const, 'write' as const),
    verified: fc.boolean(),
    agent: fc.constantFrom('helper', 'stranger'),
    owner: fc.constantFrom('ann', 'bob', null),
    args,
  });
  const judge = (policy: PolicyFile, about: PolicyCall): PolicyDecision => evaluatePolicy(policy, about, conditions(policy));
  const STRICTNESS = { allow: 0, approval_required: 1, deny: 2 };
  const RUNS = { numRuns: 500 };

  test('the order of its rules changes nothing: not the outcome, the rule that is named, the tier, the quorum or the time', () => {
    fc.assert(
      fc.property(
        file.chain((from) => fc.tuple(fc.constant(from), fc.shuffledSubarray(from.rules, { minLength: from.rules.length }))),
        anyCall,
        ([from, shuffled], about) => {
          expect(judge(parsed(from, shuffled), about)).toEqual(judge(parsed(from), about));
        },
      ),
      RUNS,
    );
  });

  test('one more deny rule, whatever its condition, never makes a call less restricted', () => {
    fc.assert(
      fc.property(file, oneRule, anyCall, (from, more, about) => {
        const added: WrittenRule = { ...more, id: 'added', effect: 'deny' };
        const [before, after] = [judge(parsed(from), about), judge(parsed(from, [...from.rules, added]), about)];
        expect(STRICTNESS[after.outcome]).toBeGreaterThanOrEqual(STRICTNESS[before.outcome]);
        if (after.outcome === before.outcome && after.rule === before.rule) expect(after.quorum).toBeGreaterThanOrEqual(before.quorum);
      }),
      RUNS,
    );
  });

  test('a condition that cannot be evaluated never lets a call through, nor its rule do less than if the condition held', () => {
    fc.assert(
      fc.property(file, anyCall, (from, about) => {
        const told = considerRules(parsed(from), about, conditions(parsed(from))).flatMap(({ rule: { id }, answer }) => (answer === true ? [id] : []));
        const odd = from.rules.map((one) => (one.when !== undefined && told.includes(one.id) ? { ...one, when: 'args.no.such.field' } : one));
        const [holds, errs] = [judge(parsed(from), about), judge(parsed(from, odd), about)];
        expect(STRICTNESS[errs.outcome]).toBeGreaterThanOrEqual(STRICTNESS[holds.outcome]);
        if (errs.outcome === 'allow') expect(odd.filter(({ id }) => id === errs.rule).every((one) => one.when === undefined)).toBe(true);
      }),
      RUNS,
    );
  });

  test('a call of tier high is never allowed, and a call is denied or asked when a run is unverified and it writes', () => {
    fc.assert(
      fc.property(file, anyCall, (from, about) => {
        const { outcome, tier: found } = judge(parsed(from), about);
        if (found === 'high' || (!about.verified && about.kind === 'write')) expect(outcome).not.toBe('allow');
      }),
      RUNS,
    );
  });

  test('a quorum is never below what the call’s tier sets, a time never above', () => {
    fc.assert(
      fc.property(file, anyCall, (from, about) => {
        const decision = judge(parsed(from), about);
        const { quorum = 1, ttl_seconds = 900 } = (from.tiers as Record<string, { quorum?: number; ttl_seconds?: number }>)[decision.tier] ?? {};
        expect(decision.quorum).toBeGreaterThanOrEqual(quorum);
        expect(decision.ttl_seconds).toBeLessThanOrEqual(ttl_seconds);
      }),
      RUNS,
    );
  });
});
