import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import type { z } from 'zod';
import { exhaustedBudget } from '../../core/budget.ts';
import { PolicyFile, type Rule } from '../../core/contracts.ts';
import { matchesTool } from '../../core/glob.ts';
import { evaluatePolicy } from '../../core/policy.ts';
import type { PolicyCall } from '../../core/policy-facts.ts';

type Written = z.input<typeof PolicyFile>;
type WrittenRule = z.input<typeof Rule>;

const call = (tool: string, kind: PolicyCall['kind'] = 'write', verified = true): PolicyCall => ({ tool, kind, verified });
const decide = (file: Written, ...about: Parameters<typeof call>) => evaluatePolicy(PolicyFile.parse(file), call(...about));
const withRules = (...rules: WrittenRule[]): Written => ({ policy: { rules } });

describe('with no rule', () => {
  test('reads are allowed and writes ask', () => {
    expect(decide({}, 'search.read', 'read')).toMatchObject({ outcome: 'allow', rule: 'reads' });
    expect(decide({}, 'email.send')).toEqual({
      outcome: 'approval_required',
      rule: 'writes.require_approval',
      reason: 'email.send writes, and no rule lets it through',
      tier: 'default',
      ttl_seconds: 300,
      quorum: 1,
    });
  });

  test('writes are allowed when the file says that they need no approval', () => {
    expect(decide({ writes: { require_approval: false } }, 'email.send')).toMatchObject({ outcome: 'allow', rule: 'writes.require_approval' });
  });

  test('a kind that is neither read nor write is denied', () => {
    expect(decide({}, 'email.send', 'maybe' as 'read')).toMatchObject({ outcome: 'deny', rule: 'policy' });
  });
});

describe('scope', () => {
  test('what is not on the allowlist is denied, reads too', () => {
    const file = { policy: { tool_allowlist: ['search.read'] } };
    expect(decide(file, 'email.send')).toMatchObject({ outcome: 'deny', rule: 'policy.tool_allowlist', reason: 'email.send is not on the allowlist' });
    expect(decide(file, 'http.get', 'read')).toMatchObject({ outcome: 'deny' });
    expect(decide(file, 'search.read', 'read')).toMatchObject({ outcome: 'allow' });
  });

  test('an empty allowlist allows nothing', () => {
    expect(decide({ policy: { tool_allowlist: [] } }, 'search.read', 'read')).toMatchObject({ outcome: 'deny', rule: 'policy.tool_allowlist' });
  });

  test('the blocklist is above the allowlist, required approvals and every rule', () => {
    const file: Written = {
      approvals: { required_for: ['email.send'] },
      policy: { tool_allowlist: ['*'], tool_blocklist: ['email.*'], rules: [{ id: 'mail', tools: ['email.send'], effect: 'allow' }] },
    };
    expect(decide(file, 'email.send')).toMatchObject({ outcome: 'deny', rule: 'policy.tool_blocklist', reason: 'email.send is on the blocklist' });
  });
});

describe('rules', () => {
  const allow: WrittenRule = { id: 'a', tools: ['crm.*'], effect: 'allow' };
  const ask: WrittenRule = { id: 'b', tools: ['crm.*'], effect: 'approval_required', quorum: 2, ttl_seconds: 60, tier: 'high' };
  const deny: WrittenRule = { id: 'c', tools: ['crm.delete'], effect: 'deny', reason: 'contacts are kept' };

  test('deny is above approval_required, which is above allow', () => {
    expect(decide(withRules(allow, ask, deny), 'crm.delete')).toMatchObject({ outcome: 'deny', rule: 'c', reason: 'contacts are kept' });
    expect(decide(withRules(allow, ask, deny), 'crm.update')).toMatchObject({
      outcome: 'approval_required',
      rule: 'b',
      tier: 'high',
      quorum: 2,
      ttl_seconds: 60,
    });
    expect(decide(withRules(allow), 'crm.update')).toMatchObject({ outcome: 'allow', rule: 'a' });
  });

  test('an allow rule does not lift what approvals.required_for asks for', () => {
    expect(decide({ ...withRules(allow), approvals: { required_for: ['crm.update'] } }, 'crm.update')).toMatchObject({
      outcome: 'approval_required',
      rule: 'approvals.required_for',
    });
  });

  test('a read asks when a rule or the list says so', () => {
    expect(decide(withRules({ id: 'r', tools: ['search.read'], effect: 'approval_required' }), 'search.read', 'read')).toMatchObject({
      outcome: 'approval_required',
    });
    expect(decide({ approvals: { required_for: ['search.*'] } }, 'search.read', 'read')).toMatchObject({ outcome: 'approval_required' });
  });

  test('of several that ask the largest quorum and the shortest time count, also from different rules', () => {
    const patient: WrittenRule = { id: 'p', tools: ['*'], effect: 'approval_required', quorum: 3, ttl_seconds: 600 };
    const hasty: WrittenRule = { id: 'h', tools: ['*'], effect: 'approval_required', quorum: 1, ttl_seconds: 10 };
    expect(decide(withRules(patient, hasty), 'crm.update')).toMatchObject({ rule: 'p', quorum: 3, ttl_seconds: 10 });
  });

  test('required_for keeps its own time and quorum against a rule that asks for less', () => {
    const lax: WrittenRule = { id: 'lax', tools: ['*'], effect: 'approval_required', quorum: 1, ttl_seconds: 9_000 };
    const file: Written = { ...withRules(lax), approvals: { required_for: ['crm.update'], quorum: 2, ttl_seconds: 300 } };
    expect(decide(file, 'crm.update')).toMatchObject({ quorum: 2, ttl_seconds: 300 });
  });

  test('an effect that nobody knows denies', () => {
    const policy = PolicyFile.parse(withRules(allow));
    const strange = { ...policy, policy: { ...policy.policy, rules: [{ ...(policy.policy.rules[0] as Rule), effect: 'perhaps' as 'allow' }] } };
    expect(evaluatePolicy(strange, call('crm.update'))).toMatchObject({ outcome: 'deny', rule: 'a' });
  });
});

describe('a run that the API did not start', () => {
  test('asks for every write, whatever allows it', () => {
    const files: Written[] = [{}, { writes: { require_approval: false } }, withRules({ id: 'a', tools: ['*'], effect: 'allow' })];
    for (const file of files) {
      expect(decide(file, 'email.send', 'write', false)).toMatchObject({
        outcome: 'approval_required',
        rule: 'unverified',
        reason: expect.stringContaining('not started through the API'),
      });
    }
  });

  test('may read what anybody may read, and is denied what anybody is', () => {
    expect(decide({}, 'search.read', 'read', false)).toMatchObject({ outcome: 'allow' });
    expect(decide({ policy: { tool_blocklist: ['email.send'] } }, 'email.send', 'write', false)).toMatchObject({
      outcome: 'deny',
      rule: 'policy.tool_blocklist',
    });
    expect(decide(withRules({ id: 'no', tools: ['*'], effect: 'deny' }), 'email.send', 'write', false)).toMatchObject({ outcome: 'deny', rule: 'no' });
  });

  test('needs the quorum and time of the rules that would ask anyway', () => {
    const file = withRules({ id: 'two', tools: ['email.*'], effect: 'approval_required', quorum: 2, ttl_seconds: 30 });
    expect(decide(file, 'email.send', 'write', false)).toMatchObject({ rule: 'unverified', quorum: 2, ttl_seconds: 30 });
  });
});

describe('for every policy', () => {
  const tools = ['email.send', 'crm.update', 'crm.delete', 'search.read'];
  const pattern = fc.constantFrom('*', 'crm.*', '*.send', 'e*l.s*d', '*.delete', 'nothing.*', ...tools);
  const rule = fc.record({
    tools: fc.array(pattern, { minLength: 1, maxLength: 3 }),
    effect: fc.constantFrom('allow' as const, 'deny' as const, 'approval_required' as const),
    quorum: fc.option(fc.integer({ min: 1, max: 4 }), { nil: undefined }),
    ttl_seconds: fc.option(fc.integer({ min: 1, max: 900 }), { nil: undefined }),
    tier: fc.option(fc.constantFrom('high', 'low'), { nil: undefined }),
  });
  const rules = fc
    .array(rule, { maxLength: 6 })
    .map((list) => list.map((one, index) => JSON.parse(JSON.stringify({ id: `r${index}`, ...one })) as WrittenRule));
  const file = fc.record({
    rules,
    required: fc.array(pattern, { maxLength: 2 }),
    allowlist: fc.option(fc.array(pattern, { maxLength: 3 }), { nil: undefined }),
    blocklist: fc.array(pattern, { maxLength: 1 }),
    requireApproval: fc.boolean(),
  });
  const written = (from: typeof file extends fc.Arbitrary<infer T> ? T : never, list = from.rules): PolicyFile =>
    PolicyFile.parse({
      approvals: { required_for: from.required },
      policy: { rules: list, tool_blocklist: from.blocklist, ...(from.allowlist ? { tool_allowlist: from.allowlist } : {}) },
      writes: { require_approval: from.requireApproval },
    });
  const anyCall = fc.record({ tool: fc.constantFrom(...tools), kind: fc.constantFrom('read' as const, 'write' as const), verified: fc.boolean() });
  const STRICTNESS = { allow: 0, approval_required: 1, deny: 2 };

  test('the order of its rules changes nothing', () => {
    fc.assert(
      fc.property(
        file.chain((from) => fc.tuple(fc.constant(from), fc.shuffledSubarray(from.rules, { minLength: from.rules.length }))),
        anyCall,
        ([from, shuffled], about) => {
          expect(evaluatePolicy(written(from, shuffled), about)).toEqual(evaluatePolicy(written(from), about));
        },
      ),
    );
  });

  test('one more deny rule never loosens anything, and denies what it matches', () => {
    fc.assert(
      fc.property(file, rule, anyCall, (from, more, about) => {
        const stricter = written(from, [...from.rules, { id: 'added', tools: more.tools, effect: 'deny' }]);
        const [before, after] = [evaluatePolicy(written(from), about), evaluatePolicy(stricter, about)];
        expect(STRICTNESS[after.outcome]).toBeGreaterThanOrEqual(STRICTNESS[before.outcome]);
        if (more.tools.some((one) => matchesTool(one, about.tool))) expect(after.outcome).toBe('deny');
      }),
    );
  });

  test('one more rule that asks never loosens anything, nor lowers a quorum below its own', () => {
    fc.assert(
      fc.property(file, rule, anyCall, (from, more, about) => {
        const added = JSON.parse(JSON.stringify({ ...more, id: 'added', effect: 'approval_required' })) as WrittenRule;
        const [before, after] = [evaluatePolicy(written(from), about), evaluatePolicy(written(from, [...from.rules, added]), about)];
        expect(STRICTNESS[after.outcome]).toBeGreaterThanOrEqual(STRICTNESS[before.outcome]);
        if (after.outcome === 'approval_required' && more.tools.some((one) => matchesTool(one, about.tool))) {
          expect(after.quorum).toBeGreaterThanOrEqual(more.quorum ?? 1);
          expect(after.ttl_seconds).toBeLessThanOrEqual(more.ttl_seconds ?? 300);
        }
      }),
    );
  });

  test('a write goes through unasked only by an allow rule that names it or because writes need no approval', () => {
    fc.assert(
      fc.property(file, anyCall, (from, about) => {
        const answer = evaluatePolicy(written(from), about);
        if (about.kind === 'read' || answer.outcome !== 'allow') return;
        expect(about.verified).toBe(true);
        const allowed = from.rules.some((one) => one.effect === 'allow' && one.tools.some((name) => matchesTool(name, about.tool)));
        expect(allowed || !from.requireApproval).toBe(true);
      }),
    );
  });

  test('patterns that match nothing allow no write', () => {
    fc.assert(
      fc.property(rules, (list) => {
        const renamed = list.map((one) => ({ ...one, tools: ['no.such.*'] }));
        expect(decide(withRules(...renamed), 'email.send')).toMatchObject({ outcome: 'approval_required', rule: 'writes.require_approval' });
      }),
    );
  });
});

describe('globs', () => {
  test.each([
    ['crm.*', 'crm.delete_contact', true],
    ['crm.*', 'crm', false],
    ['*', 'anything', true],
    ['*.send', 'email.send', true],
    ['*.send', 'email.sender', false],
    ['a*a', 'a', false],
    ['a*a', 'aa', true],
    ['a*b*c', 'a-b-c', true],
    ['a*b*c', 'a-c-b', false],
    ['*b*b*', 'abb', true],
    ['*b*b*', 'ab', false],
    ['email.send', 'email_send', false],
    ['email.send', 'email.send', true],
    ['**', 'x', true],
    ['constructor', 'constructor', true],
  ])('%s against %s is %s', (pattern, tool, expected) => {
    expect(matchesTool(pattern, tool)).toBe(expected);
  });

  test('agree with the obvious definition for every pattern and name', () => {
    const letters = fc.string({ unit: fc.constantFrom('a', 'b', '*'), maxLength: 8 });
    const names = fc.string({ unit: fc.constantFrom('a', 'b'), maxLength: 10 });
    fc.assert(
      fc.property(letters, names, (pattern, name) => {
        expect(matchesTool(pattern, name)).toBe(new RegExp(`^${pattern.replaceAll('*', '.*')}$`).test(name));
      }),
    );
  });

  test('made to be slow are answered at once', () => {
    const pattern = `${'*a'.repeat(90)}*b`;
    const startedAt = performance.now();
    expect(matchesTool(pattern, 'a'.repeat(20_000))).toBe(false);
    expect(performance.now() - startedAt).toBeLessThan(200);
  });
});

describe('budgets', () => {
  const none = { steps: 0, tool_calls: 0, active_seconds: 0, usd: 0 };

  test('none are set: nothing is ever exhausted', () => {
    expect(exhaustedBudget({}, { steps: 1e6, tool_calls: 1e6, active_seconds: 1e6, usd: 1e6 }, 'call')).toBeUndefined();
  });

  test('the last place is given, the one after it is not', () => {
    const budgets = { max_steps: 2, max_tool_calls: 3 };
    expect(exhaustedBudget(budgets, { ...none, steps: 1 }, 'step')).toBeUndefined();
    expect(exhaustedBudget(budgets, { ...none, steps: 2 }, 'step')).toEqual({ budget: 'max_steps', limit: 2, used: 2 });
    expect(exhaustedBudget(budgets, { ...none, tool_calls: 2 }, 'call')).toBeUndefined();
    expect(exhaustedBudget(budgets, { ...none, tool_calls: 3 }, 'call')).toEqual({ budget: 'max_tool_calls', limit: 3, used: 3 });
  });

  test('a call of the last step is not held back by the step that it belongs to', () => {
    expect(exhaustedBudget({ max_steps: 2 }, { ...none, steps: 2 }, 'call')).toBeUndefined();
  });

  test('a granted call has its place and is not counted twice, unless the limit was lowered meanwhile', () => {
    expect(exhaustedBudget({ max_tool_calls: 3 }, { ...none, tool_calls: 3 }, 'granted')).toBeUndefined();
    expect(exhaustedBudget({ max_tool_calls: 2 }, { ...none, tool_calls: 3 }, 'granted')).toEqual({ budget: 'max_tool_calls', limit: 2, used: 3 });
  });

  test.each(['step', 'call', 'granted'] as const)('seconds and dollars that are spent stop a %s', (next) => {
    expect(exhaustedBudget({ max_seconds: 60 }, { ...none, active_seconds: 59.9 }, next)).toBeUndefined();
    expect(exhaustedBudget({ max_seconds: 60 }, { ...none, active_seconds: 60 }, next)).toMatchObject({ budget: 'max_seconds' });
    expect(exhaustedBudget({ max_usd: 1 }, { ...none, usd: 1 }, next)).toMatchObject({ budget: 'max_usd', limit: 1 });
  });

  test('usage that is no number counts as exhausted', () => {
    expect(exhaustedBudget({ max_usd: 1 }, { ...none, usd: Number.NaN }, 'call')).toMatchObject({ budget: 'max_usd' });
  });
});
