/** Conditions, tiers and roles through the gateway and the decision service, on a real ledger: both sides see the same facts. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { defineTool } from '../../activities/define.ts';
import type { RunKey } from '../../activities/gateway.ts';
import type { CallResult, PendingView } from '../../core/run-contract.ts';
import { createHarness, type Harness, testTools } from './harness.ts';

let h: Harness;
let run: RunKey;
beforeAll(async () => {
  h = await createHarness();
});
afterAll(() => h.close());
beforeEach(async () => {
  h.usePolicy({});
  h.effects.length = 0;
  h.useTools([
    ...testTools(h.effects),
    defineTool({
      name: 'billing.refund',
      input: z.strictObject({ amount: z.number(), meta: z.unknown().optional() }),
      execute: async (args, { idempotency_key }) => void h.effects.push({ tool: 'billing.refund', args, key: idempotency_key, token: undefined }),
    }),
  ]);
  run = await h.newRun();
});

type Policy = Parameters<Harness['usePolicy']>[0];
type Rule = NonNullable<NonNullable<Policy['policy']>['rules']>[number];
const rules = (...list: Omit<Rule, 'id' | 'tools'>[]): Policy => ({ policy: { rules: list.map((one, n) => ({ id: `r${n}`, tools: ['*'], ...one })) } });
const refund = (amount: unknown, callId = '1.1', more: Parameters<Harness['call']>[4] = {}, meta?: unknown): Promise<CallResult> =>
  h.call(run, callId, 'billing.refund', { amount, ...(meta === undefined ? {} : { meta }) }, more);
function pending(result: CallResult): PendingView {
  if (result.status !== 'waiting') throw new Error(`not waiting: ${JSON.stringify(result)}`);
  return result.request;
}

describe('a conditional rule', () => {
  const BY_AMOUNT = rules(
    { when: 'args.amount <= 100.0', effect: 'allow' },
    { when: 'args.amount > 100.0', effect: 'approval_required', reason: 'more than 100' },
  );

  test('lets the small call through and asks before the large one, which executes once it is granted', async () => {
    h.usePolicy(BY_AMOUNT);
    expect(await refund(50)).toMatchObject({ status: 'executed' });
    const request = pending(await refund(500, '1.2'));
    expect(request).toMatchObject({ rule: 'r1', reason: 'more than 100', quorum: 1 });
    const { status, token } = await h.decide(request.pending_id);
    expect(status).toBe('accepted');
    expect(await refund(500, '1.2', { tokens: [token] })).toMatchObject({ status: 'executed' });
    expect(h.effects.map(({ args }) => args)).toEqual([{ amount: 50 }, { amount: 500 }]);
  });

  test('whose condition cannot be evaluated asks, and the audit holds the kind of the problem and no argument', async () => {
    h.usePolicy(rules({ when: 'timestamp(args.meta.secret) < now', effect: 'allow' }));
    const request = pending(await refund(1, '1.1', {}, { secret: 'hunter2' }));
    expect(request.reason).toBe('rule r0 asks before billing.refund: its condition cannot be evaluated, its evaluation failed');
    const { rows } = await h.admin.query('SELECT * FROM audit_events WHERE run_id = $1', [run.run_id]);
    expect(JSON.stringify(rows)).not.toContain('hunter2');
  });

  test('that denies ends the call with policy_denied, and nobody is asked', async () => {
    h.usePolicy(rules({ when: 'args.amount > 100.0', effect: 'deny' }));
    expect(await refund(500)).toMatchObject({ status: 'refused', stop: { stop_reason: 'policy_denied', rule: 'r0' } });
    expect(await h.events(run)).toEqual(['run_started', 'deny:policy_denied']);
  });

  test('sees the run’s other calls, and the ledger’s time', async () => {
    h.usePolicy(rules({ when: 'run.tool_calls >= 2 || now < timestamp("2020-01-01T00:00:00Z")', effect: 'deny' }, { effect: 'allow' }));
    expect(await refund(1, '1.1')).toMatchObject({ status: 'executed' });
    expect(await refund(1, '1.2')).toMatchObject({ status: 'executed' });
    expect(await refund(1, '1.3')).toMatchObject({ status: 'refused', stop: { rule: 'r0' } });
  });
});

describe('after the grant the policy in force decides', () => {
  test('a condition that now denies what was granted: policy_denied, and the request is closed', async () => {
    const request = pending(await refund(500));
    const { token } = await h.decide(request.pending_id);
    h.usePolicy(rules({ when: 'args.amount > 400.0', effect: 'deny' }));
    expect(await refund(500, '1.1', { tokens: [token] })).toMatchObject({ status: 'refused', stop: { stop_reason: 'policy_denied', rule: 'r0' } });
    expect(h.effects).toEqual([]);
    expect(await h.events(run)).toEqual(['run_started', 'approval_required', 'approval_granted', 'approval_cancelled', 'deny:policy_denied']);
  });

  test('a condition that now asks for two: the request is open again, one vote is missing, the second person’s lets it through', async () => {
    const request = pending(await refund(500));
    const first = await h.decide(request.pending_id);
    h.usePolicy(rules({ when: 'args.amount > 400.0', effect: 'approval_required', quorum: 2 }));
    expect(pending(await refund(500, '1.1', { tokens: [first.token] }))).toMatchObject({ pending_id: request.pending_id, quorum: 2, missing: 1 });
    const second = await h.decide(request.pending_id, 'approved', 'bob');
    expect(second.status).toBe('accepted');
    expect(await refund(500, '1.1', { tokens: [first.token, second.token] })).toMatchObject({ status: 'executed' });
  });

  test('a condition that does not hold for these arguments changes nothing', async () => {
    const request = pending(await refund(500));
    const { token } = await h.decide(request.pending_id);
    h.usePolicy(rules({ when: 'args.amount > 900.0', effect: 'deny' }));
    expect(await refund(500, '1.1', { tokens: [token] })).toMatchObject({ status: 'executed' });
  });
});

describe('the decision service counts by the same facts as the gateway', () => {
  test.each([
    ['the arguments', 'args.amount > 400.0'],
    ['the tool', '!tool.idempotent && tool.kind == "write" && tool.name == "billing.refund"'],
    ['who takes part', '"support" in agent.roles && owner.name == "olga" && "lead" in owner.roles && requester == "rita"'],
    ['the run, this call not counted', 'run.tool_calls == 0 && run.steps == 0 && run.usd == 0.0 && run.run_id.startsWith("run_")'],
    ['the time', 'now > timestamp("2020-01-01T00:00:00Z")'],
  ])('%s', async (_name, when) => {
    const who = { agents: { support: { roles: ['support'] } }, owners: { olga: { roles: ['lead'] } } };
    const request = pending(await refund(500));
    h.usePolicy({ ...rules({ when, effect: 'approval_required', quorum: 2 }), ...who });
    expect((await h.decide(request.pending_id)).status).toBe('quorum_pending');
    h.usePolicy({ ...rules({ when: `!(${when})`, effect: 'approval_required', quorum: 2 }), ...who });
    expect((await h.decide(request.pending_id, 'approved', 'bob')).status).toBe('accepted');
    expect(await h.events(run)).toEqual(['run_started', 'approval_required', 'vote_recorded', 'approval_granted']);
  });

  test('a condition that neither can evaluate asks for its rule’s quorum on both sides', async () => {
    h.usePolicy(rules({ when: 'args.nothing > 1.0', effect: 'allow', quorum: 2 }));
    const request = pending(await refund(500));
    expect(request).toMatchObject({ quorum: 2, missing: 2 });
    expect((await h.decide(request.pending_id)).status).toBe('quorum_pending');
  });

  test('and so does the deadline: a quorum that a condition raised is incomplete then', async () => {
    h.usePolicy({ approvals: { ttl_seconds: 1 } });
    const request = pending(await refund(500));
    expect((await h.decide(request.pending_id)).status).toBe('accepted');
    h.usePolicy({ approvals: { ttl_seconds: 1 }, ...rules({ when: 'args.amount > 400.0', effect: 'approval_required', quorum: 2 }) });
    await sleep(request.remaining_ms + 50);
    const closed = await h.gateway.closeRequest(run, { pending_id: request.pending_id, why: 'deadline' });
    expect(closed).toMatchObject({ status: 'refused', stop: { stop_reason: 'approval_timeout' } });
  });
});

describe('tiers and roles', () => {
  test('the tier of a call is on its request, with the tier’s quorum and time, and in the audit', async () => {
    h.usePolicy({ tiers: { high: { quorum: 2, ttl_seconds: 60 } }, ...rules({ when: 'args.amount > 100.0', effect: 'allow', tier: 'high' }) });
    expect(pending(await refund(500))).toMatchObject({ tier: 'high', rule: 'tiers.high', quorum: 2 });
    const { rows } = await h.admin.query(`SELECT tier FROM audit_events WHERE run_id = $1 AND outcome = 'approval_required'`, [run.run_id]);
    expect(rows).toEqual([{ tier: 'high' }]);
  });

  test('a write of tier low executes unasked and is in the audit with its tier', async () => {
    h.usePolicy({ policy: { tool_tiers: { 'billing.*': 'low' } } });
    expect(await refund(5)).toMatchObject({ status: 'executed' });
    const { rows } = await h.admin.query('SELECT outcome, rule, tier FROM audit_events WHERE run_id = $1 AND tier IS NOT NULL ORDER BY seq', [run.run_id]);
    expect(rows).toEqual(['execution_started', 'allow'].map((outcome) => ({ outcome, rule: 'tiers.low', tier: 'low' })));
  });

  test('the tier of a tool’s definition counts for both sides', async () => {
    h.useTools([defineTool({ name: 'billing.refund', tier: 'high', input: z.strictObject({ amount: z.number() }), execute: async () => ({}) })]);
    h.usePolicy({ tiers: { high: { quorum: 2 } }, ...rules({ effect: 'allow' }) });
    const request = pending(await refund(5));
    expect(request).toMatchObject({ tier: 'high', rule: 'tiers.high', quorum: 2 });
    h.usePolicy({ tiers: { high: { quorum: 3 } }, ...rules({ effect: 'allow' }) });
    expect((await h.decide(request.pending_id)).status).toBe('quorum_pending');
    expect((await h.decide(request.pending_id, 'approved', 'bob')).status).toBe('quorum_pending');
  });

  test('a tool outside the roles of the agent is denied before anything is asked', async () => {
    h.usePolicy({ policy: { role_tools: { mail: ['email.*'] } }, agents: { support: { roles: ['mail'] } }, approvals: { required_for: ['billing.refund'] } });
    expect(await refund(5)).toMatchObject({ status: 'refused', stop: { stop_reason: 'policy_denied', rule: 'policy.role_tools' } });
    expect(await h.events(run)).toEqual(['run_started', 'deny:policy_denied']);
    const foreign = await h.newRun({ registered: false });
    expect(await h.call(foreign, '1.1', 'email.send', { to: 'a', body: 'b' })).toMatchObject({ status: 'refused', stop: { rule: 'policy.role_tools' } });
  });
});

describe('arguments that are made to break conditions', () => {
  test.each([
    ['a lone surrogate', { s: '\ud800' }],
    ['an integer beyond 2^53', { n: 2 ** 53 + 2 }],
    ['ten megabytes', { s: 'a'.repeat(10_000_000) }],
    ['a nesting of ten thousand', JSON.parse(`${'['.repeat(10_000)}${']'.repeat(10_000)}`) as unknown],
  ])('%s: invalid_arguments, before any rule is asked', async (_name, meta) => {
    h.usePolicy(rules({ when: 'args.meta == args.meta', effect: 'allow' }));
    const startedAt = performance.now();
    expect(await refund(1, '1.1', {}, meta)).toMatchObject({ status: 'invalid', code: 'invalid_arguments' });
    expect(performance.now() - startedAt).toBeLessThan(2_000);
  });

  test('a number that is none is no argument', async () => {
    expect(await refund(Number.NaN)).toMatchObject({ status: 'invalid', code: 'invalid_arguments' });
  });

  test.each([
    ['a list that a condition walks twice over', { l: Array.from({ length: 5_000 }, (_, n) => n) }, 'args.meta.l.all(a, args.meta.l.all(b, true))'],
    ['a text for a slow pattern', { s: 'a'.repeat(200_000) }, 'args.meta.s.matches("(a+)+$")'],
  ])('%s: it asks, in bounded time', async (_name, meta, when) => {
    h.usePolicy(rules({ when, effect: 'allow' }));
    const startedAt = performance.now();
    expect(pending(await refund(1, '1.1', {}, meta)).reason).toContain('the call is too large for it');
    expect(performance.now() - startedAt).toBeLessThan(2_000);
  });

  test('constructor and __proto__ are keys like others', async () => {
    const meta = JSON.parse('{"__proto__":{"admin":true},"constructor":"x"}') as unknown;
    h.usePolicy(rules({ when: 'has(args.meta.admin) || has(args.meta.toString)', effect: 'deny' }, { when: 'args.meta.constructor == "x"', effect: 'allow' }));
    expect(await refund(1, '1.1', {}, meta)).toMatchObject({ status: 'executed' });
  });
});
