/** What a foreign workflow, a planner or a change of policy could try on the gateway. */
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { defineTool } from '../../activities/define.ts';
import type { RunKey } from '../../activities/gateway.ts';
import { verifyAudit } from '../../adapters/audit-verify.ts';
import type { AuditEvent } from '../../core/audit.ts';
import type { CallResult, PendingView } from '../../core/run-contract.ts';
import { LIMITS } from '../../core/words.ts';
import { createHarness, type Harness, testTools } from './harness.ts';

let h: Harness;
let run: RunKey;
beforeAll(async () => {
  h = await createHarness();
});
afterAll(() => h.close());
beforeEach(async () => {
  h.usePolicy({});
  h.useTools(testTools(h.effects));
  h.usePlanner(async () => ({ done: true }));
  h.effects.length = 0;
  run = await h.newRun();
});

const MAIL = { to: 'ann@example.com', body: 'Your refund is on its way' };

function pending(result: CallResult): PendingView {
  if (result.status !== 'waiting') throw new Error(`not waiting: ${JSON.stringify(result)}`);
  return result.request;
}
const ask = async (callId = '1.1'): Promise<PendingView> => pending(await h.call(run, callId, 'email.send', MAIL));
const passDeadline = (): Promise<unknown> =>
  h.admin.query(`UPDATE approval_requests SET expires_at = clock_timestamp() - interval '1 millisecond' WHERE run_id = $1`, [run.run_id]);
const atDeadline = (pendingId: string): ReturnType<Harness['gateway']['closeRequest']> =>
  h.gateway.closeRequest(run, { pending_id: pendingId, why: 'deadline' });
const toolCalls = async (): Promise<number | undefined> =>
  (await h.admin.query<{ tool_calls: number }>('SELECT tool_calls FROM run_states WHERE run_id = $1', [run.run_id])).rows[0]?.tool_calls;

/** Findings of `audit verify` in this run's chain, signatures left out: the keys are not at hand here. */
async function brokenRecords(): Promise<string[]> {
  const { rows } = await h.admin.query<Omit<AuditEvent, 'at'> & { at: Date }>('SELECT * FROM audit_events WHERE run_id = $1 ORDER BY seq', [run.run_id]);
  const events = rows.map((row) => ({ ...row, at: row.at.toISOString() }));
  const { findings } = await verifyAudit({ events, stored: [], keys: new Map() });
  return findings.filter((finding) => finding.kind !== 'bad_signature').map((finding) => finding.message);
}

describe('votes that resolve a request only later', () => {
  test('a quorum that the policy lowered again after the vote is granted at the deadline, not asked about for ever', async () => {
    const request = await ask();
    h.usePolicy({ approvals: { quorum: 2 } });
    const { token } = await h.decide(request.pending_id);
    h.usePolicy({});
    await passDeadline();
    expect(await atDeadline(request.pending_id)).toEqual({ pending_id: request.pending_id, status: 'approved', tokens: [token] });
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })).toMatchObject({ status: 'executed' });
    expect(h.effects).toHaveLength(1);
    expect(await h.events(run)).toEqual(['run_started', 'approval_required', 'vote_recorded', 'approval_granted', 'execution_started', 'allow:ok']);
    expect(await brokenRecords()).toEqual([]);
  });

  test('a vote whose voter got the role back counts at the deadline', async () => {
    h.usePolicy({ approvals: { quorum: 2 } });
    const request = await ask();
    const first = await h.decide(request.pending_id, 'approved', 'alice');
    await h.admin.query(`UPDATE approvers SET active = false WHERE principal = 'alice'`);
    const second = await h.decide(request.pending_id, 'approved', 'bob');
    await h.admin.query(`UPDATE approvers SET active = true WHERE principal = 'alice'`);
    expect(second.status).toBe('quorum_pending');
    await passDeadline();
    expect(await atDeadline(request.pending_id)).toMatchObject({ status: 'approved' });
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [first.token, second.token] })).toMatchObject({ status: 'executed' });
  });
});

describe('a deadline that is asked about again after the call was executed', () => {
  test.each([
    ['after the deadline', true],
    ['before the deadline', false],
  ])('changes nothing, although the votes would not be enough any more: %s', async (_when, late) => {
    const request = await ask();
    const { token } = await h.decide(request.pending_id);
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })).toMatchObject({ status: 'executed' });
    h.usePolicy({ approvals: { quorum: 2 } });
    if (late) await passDeadline();
    await atDeadline(request.pending_id);
    expect(await h.events(run)).toEqual(['run_started', 'approval_required', 'approval_granted', 'execution_started', 'allow:ok']);
    expect(await h.call(run, '1.1', 'email.send', MAIL)).toMatchObject({ status: 'executed' });
    expect(await toolCalls()).toBe(1);
    const { rows } = await h.admin.query('SELECT status FROM approval_requests WHERE pending_id = $1', [request.pending_id]);
    expect(rows).toEqual([{ status: 'approved' }]);
  });

  test('a call that the kill switch stopped gives its place in the budget back no second time', async () => {
    const request = await ask('1.1');
    await ask('1.2');
    await h.admin.query(`INSERT INTO controls (scope, engaged, changed_by) VALUES ('global', true, 'x') ON CONFLICT (scope) DO UPDATE SET engaged = true`);
    await h.call(run, '1.1', 'email.send', MAIL);
    await h.admin.query('UPDATE controls SET engaged = false');
    const before = await toolCalls();
    await h.gateway.verifyDecisions(run, { messages: [], open: [request.pending_id] });
    expect(await toolCalls()).toBe(before);
    expect(await h.call(run, '1.1', 'email.send', MAIL)).toMatchObject({ status: 'stopped', stop: { stop_reason: 'kill_switch' } });
  });
});

describe('a foreign workflow that says what no type allows', () => {
  test.each([
    ['no stop', null],
    ['a stop reason that is none', { stop_reason: 'done', reason: 'x' }],
    ['a number for a reason', { stop_reason: 'completed', reason: 5 }],
    ['an object for a tool', { stop_reason: 'completed', reason: 'x', tool: { a: 1 } }],
    ['a number for a call', { stop_reason: 'completed', reason: 'x', call_id: 5 }],
  ])('ends no run with %s, is not repeated, and leaves a trail that verifies', async (_what, stop) => {
    const error = await h.gateway.closeRun(run, { stop: stop as never }).then(
      () => undefined,
      (thrown: unknown) => thrown,
    );
    expect(error).toMatchObject({ nonRetryable: true });
    expect(await brokenRecords()).toEqual([]);
    expect(await h.events(run)).toEqual(['run_started']);
  });

  test.each([[{ a: 1 }], [5], ['x'.repeat(100_000)]])('closes a request with a detail that is no sentence, and the trail verifies: case %#', async (detail) => {
    const request = await ask();
    const closing = h.gateway.closeRequest(run, { pending_id: request.pending_id, why: 'cancelled', detail: detail as never });
    if (typeof detail === 'string') expect(await closing).toMatchObject({ status: 'refused' });
    else await expect(closing).rejects.toMatchObject({ nonRetryable: true });
    expect(await brokenRecords()).toEqual([]);
    const { rows } = await h.admin.query<{ longest: number }>('SELECT max(length(reason)) AS longest FROM audit_events WHERE run_id = $1', [run.run_id]);
    expect(rows[0]?.longest).toBeLessThanOrEqual(LIMITS.text);
  });

  test.each([[0], [-1], [1.5], [2 ** 40], ['1'], [null]])('plans no step %j, and is not repeated', async (step) => {
    await expect(h.gateway.planNextStep(run, { step: step as never })).rejects.toMatchObject({ nonRetryable: true });
  });

  test.each([
    ['no messages', { open: [] }],
    ['messages that are none', { messages: [null, 5, { pending_id: 7, signal: 'approval_granted', token: null }], open: [] }],
    ['ids that are none', { messages: [], open: [5, null] }],
  ])('brings mail with %s and gets an answer or a failure that is not repeated', async (_what, input) => {
    const outcome = await h.gateway.verifyDecisions(run, input as never).then(
      () => 'answered',
      (error: { nonRetryable?: boolean }) => (error.nonRetryable ? 'refused' : `repeated: ${String(error)}`),
    );
    expect(['answered', 'refused']).toContain(outcome);
  });
});

describe('a planner that cannot be trusted', () => {
  test('more dollars than a number holds do not make the step fail for ever', async () => {
    h.usePlanner(async () => ({ calls: [{ tool: 'search.read', args: { q: 'x' } }], usage: { usd: 1e308 } }));
    const outcomes = [];
    for (const step of [1, 2, 3]) {
      outcomes.push(
        await h.gateway.planNextStep(run, { step }).then(
          (plan) => plan.status,
          (error: { type?: string; nonRetryable?: boolean }) => (error.nonRetryable ? error.type : `repeated: ${String(error)}`),
        ),
      );
    }
    for (const outcome of outcomes) expect(outcome).not.toMatch(/repeated/);
  });

  test('a step that is larger than a step may be is refused before it is sent to Temporal', async () => {
    h.usePlanner(async () => ({ calls: Array.from({ length: 20 }, () => ({ tool: 'email.send', args: { to: 'x', body: 'y'.repeat(200_000) } })) }));
    const plan = await h.gateway.planNextStep(run, { step: 1 });
    expect(Buffer.byteLength(JSON.stringify(plan))).toBeLessThanOrEqual(LIMITS.step + 16_384);
    expect(plan.status).toBe('calls');
    if (plan.status !== 'calls') return;
    const [first] = plan.calls;
    const last = plan.calls.at(-1);
    expect(first?.oversized_bytes).toBeUndefined();
    expect(await h.gateway.callTool(run, { call_id: '1.20', mode: 'execute', tool: 'email.send', args: null, ...last })).toMatchObject({
      status: 'invalid',
      code: 'invalid_arguments',
    });
  });

  test.each([[150], [3_000], [50_000]])('arguments that are nested %d deep are invalid', async (depth) => {
    h.useTools([defineTool({ name: 'any.write', input: z.strictObject({ value: z.unknown() }), execute: async () => 'done' })]);
    const value = JSON.parse(`${'['.repeat(depth)}${']'.repeat(depth)}`) as unknown;
    expect(await h.call(run, '1.1', 'any.write', { value })).toMatchObject({ status: 'invalid', code: 'invalid_arguments' });
  });
});

describe('people who are the same but for the spelling', () => {
  test.each([
    ['owner', { owner: 'Alice' }],
    ['requester', { requester: ' ALICE ' }],
    ['agent', { agent: 'ALICE' }],
    ['requester in full-width letters', { requester: 'ａｌｉｃｅ' }],
  ])('the %s cannot decide under another spelling of the name', async (_who, change) => {
    run = await h.newRun(change);
    const request = await ask();
    expect((await h.decide(request.pending_id)).status).toBe('not_eligible');
  });
});
