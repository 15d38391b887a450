import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
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
  h.useTools(testTools(h.effects));
  h.effects.length = 0;
  run = await h.newRun();
});

const MAIL = { to: 'ann@example.com', body: 'Your refund is on its way' };

function pending(result: CallResult): PendingView {
  if (result.status !== 'waiting') throw new Error(`not waiting: ${JSON.stringify(result)}`);
  return result.request;
}
const ask = async (callId = '1.1', tool = 'email.send'): Promise<PendingView> => pending(await h.call(run, callId, tool, MAIL));
async function granted(callId = '1.1', tool = 'email.send'): Promise<{ request: PendingView; token: string }> {
  const request = await ask(callId, tool);
  const { token, status } = await h.decide(request.pending_id);
  expect(status).toBe('accepted');
  return { request, token };
}
const stopReason = (result: CallResult): string => ('stop' in result ? result.stop.stop_reason : result.status);
/** What a claim leaves whose attempt died: the call's state and the votes that it used. */
async function executing(callId: string): Promise<void> {
  await h.admin.query(`UPDATE calls SET status = 'executing', fence = fence + 1 WHERE run_id = $1 AND call_id = $2`, [run.run_id, callId]);
  const sql = 'INSERT INTO consumptions (decision_id, idempotency_key) SELECT decision_id, $2 FROM decisions WHERE run_id = $1';
  await h.admin.query(sql, [run.run_id, `${run.run_id}/${run.first_execution_id}/${callId}`]);
}

describe('calls that need nobody', () => {
  test('a read executes at once and is recorded as allow with its result', async () => {
    expect(await h.call(run, '1.1', 'search.read', { q: 'x' })).toMatchObject({ status: 'executed', result: { status: 'ok', head: '{"sent":true}' } });
    expect(await h.events(run)).toEqual(['run_started', 'allow:ok']);
  });

  test('an allowed write is recorded before and after it happens', async () => {
    h.usePolicy({ writes: { require_approval: false } });
    expect(await h.call(run, '1.1', 'email.send', MAIL)).toMatchObject({ status: 'executed' });
    expect(await h.events(run)).toEqual(['run_started', 'execution_started', 'allow:ok']);
  });

  test('a repeated activity answers from the record and has no second effect', async () => {
    h.usePolicy({ writes: { require_approval: false } });
    const first = await h.call(run, '1.1', 'email.send', MAIL);
    expect(await h.call(run, '1.1', 'email.send', MAIL)).toEqual(first);
    expect(h.effects).toHaveLength(1);
  });

  test('mode evaluate has no effect, and the same call executes when its turn comes', async () => {
    expect(await h.call(run, '1.2', 'search.read', { q: 'x' }, { mode: 'evaluate' })).toMatchObject({ status: 'ready' });
    expect(h.effects).toHaveLength(0);
    expect(await h.call(run, '1.2', 'search.read', { q: 'x' })).toMatchObject({ status: 'executed' });
  });

  test('a tool outside the scope is denied with policy_denied and nobody is asked', async () => {
    h.usePolicy({ policy: { tool_allowlist: ['search.*'] } });
    expect(await h.call(run, '1.1', 'email.send', MAIL)).toMatchObject({
      status: 'refused',
      final: true,
      stop: { stop_reason: 'policy_denied', rule: 'policy.tool_allowlist' },
    });
    expect(await h.events(run)).toEqual(['run_started', 'deny:policy_denied']);
    expect((await h.admin.query('SELECT 1 FROM approval_requests WHERE run_id = $1', [run.run_id])).rowCount).toBe(0);
  });
});

describe('calls that are no calls', () => {
  test.each([
    ['an unknown tool', 'no.such', {}, 'unknown_tool'],
    ['a name on the object prototype', 'constructor', {}, 'unknown_tool'],
    ['a name with NUL', 'a\0b', {}, 'unknown_tool'],
    ['a missing field', 'email.send', {}, 'invalid_arguments'],
    ['an unknown field', 'email.send', { ...MAIL, bcc: 'eve' }, 'invalid_arguments'],
    ['no object at all', 'email.send', 'mail', 'invalid_arguments'],
    ['a lone surrogate', 'email.send', { to: '\ud800' }, 'invalid_arguments'],
    ['a huge text', 'email.send', { to: 'x'.repeat(300_000) }, 'invalid_arguments'],
  ])('%s goes back to the planner, is recorded and never reaches a person', async (_what, tool, args, code) => {
    const first = await h.call(run, '1.1', tool, args);
    expect(first).toMatchObject({ status: 'invalid', code });
    expect(await h.call(run, '1.1', tool, args)).toEqual(first);
    expect(await h.events(run)).toEqual(['run_started', `deny:${code}`]);
  });

  test('NUL in arguments, names and reasons is stored and executed as it is shown', async () => {
    h.usePolicy({ writes: { require_approval: false } });
    const result = await h.gateway.callTool(run, { call_id: '1.1', tool: 'email.send', args: { to: 'a\0b' }, reason: 'x\0y\ud800', mode: 'execute' });
    expect(result).toMatchObject({ status: 'executed' });
    expect(h.effects[0]?.args).toEqual({ to: 'a\0b', body: 'hello' });
  });
});

describe('calls that ask', () => {
  test('one request is made however often the step is retried', async () => {
    const first = await ask();
    expect((await ask()).pending_id).toBe(first.pending_id);
    expect(await h.events(run)).toEqual(['run_started', 'approval_required']);
  });

  test('an approved call executes once, with the token and the key, and reads like the story it is', async () => {
    const { token } = await granted();
    const [one, two] = [await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] }), await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })];
    expect(one).toMatchObject({ status: 'executed' });
    expect(two).toEqual(one);
    expect(h.effects).toEqual([{ tool: 'email.send', args: MAIL, key: `${run.run_id}/${run.first_execution_id}/1.1`, token }]);
    expect(await h.events(run)).toEqual(['run_started', 'approval_required', 'approval_granted', 'execution_started', 'allow:ok']);
  });

  test('a denial ends the call with the words of the person', async () => {
    const request = await ask();
    await h.decide(request.pending_id, 'denied');
    const state = await h.gateway.verifyDecisions(run, { messages: [], open: [request.pending_id] });
    expect(state.requests).toMatchObject([{ status: 'refused', final: true, stop: { stop_reason: 'approval_denied' } }]);
    expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL))).toBe('approval_denied');
    expect(h.effects).toEqual([]);
  });

  test('ten approvals at once: one is accepted, nine hear that it was', async () => {
    const request = await ask();
    const answers = await Promise.all(Array.from({ length: 10 }, () => h.decide(request.pending_id)));
    expect(answers.map((answer) => answer.status).sort()).toEqual(['accepted', ...Array.from({ length: 9 }, () => 'already_decided')].sort());
  });

  test('ten executions of one grant at once have one effect', async () => {
    const { token } = await granted('1.1', 'db.write');
    await Promise.all(Array.from({ length: 10 }, () => h.call(run, '1.1', 'db.write', MAIL, { tokens: [token] })));
    expect(new Set(h.effects.map((effect) => effect.key)).size).toBe(1);
    expect((await h.events(run)).filter((event) => event === 'allow:ok')).toHaveLength(1);
  });

  test('the owner, the requester and who is no approver cannot decide', async () => {
    const own = pending(await h.call(await h.newRun({ requester: 'alice' }), '1.1', 'email.send', MAIL));
    expect((await h.decide(own.pending_id, 'approved', 'olga')).status).toBe('not_eligible');
    expect((await h.decide(own.pending_id, 'approved', 'alice')).status).toBe('not_eligible');
    expect((await h.decide(own.pending_id, 'approved', 'eve')).status).toBe('not_eligible');
    expect((await h.decide(own.pending_id, 'approved', 'bob')).status).toBe('accepted');
  });
});

describe('the deadline', () => {
  beforeEach(() => h.usePolicy({ approvals: { ttl_seconds: 1 } }));

  test('an early timer is told how long is left', async () => {
    const { pending_id } = await ask();
    expect(await h.gateway.closeRequest(run, { pending_id, why: 'deadline' })).toMatchObject({ status: 'open', missing: 1 });
  });

  test('silence ends it, and a decision after the deadline never counts', async () => {
    const { pending_id } = await ask();
    await sleep(1_050);
    expect((await h.decide(pending_id)).status).toBe('decision_late');
    expect(await h.gateway.closeRequest(run, { pending_id, why: 'deadline' })).toMatchObject({ status: 'refused', stop: { stop_reason: 'approval_timeout' } });
    expect((await h.decide(pending_id)).status).toBe('decision_late');
    expect(await h.events(run)).toEqual(['run_started', 'approval_required', 'approval_timeout']);
  });

  test('a decision in time counts, however late the timer and the worker are', async () => {
    const { request, token } = await granted();
    await sleep(1_050);
    expect(await h.gateway.closeRequest(run, { pending_id: request.pending_id, why: 'deadline' })).toMatchObject({ status: 'approved', tokens: [token] });
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })).toMatchObject({ status: 'executed' });
  });

  test('an approval that is not used in time is void', async () => {
    h.usePolicy({ approvals: { ttl_seconds: 60, execute_within_seconds: 1 } });
    const { token } = await granted();
    await sleep(1_050);
    expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] }))).toBe('approval_expired_unused');
    expect(h.effects).toEqual([]);
  });

  test('an incomplete quorum is closed at the deadline', async () => {
    h.usePolicy({ approvals: { ttl_seconds: 1, quorum: 2 } });
    const { pending_id } = await ask();
    expect((await h.decide(pending_id)).status).toBe('quorum_pending');
    await sleep(1_050);
    expect(await h.gateway.closeRequest(run, { pending_id, why: 'deadline' })).toMatchObject({ stop: { stop_reason: 'approval_timeout' } });
  });

  test('a quorum that the policy raised after the last vote is incomplete at the deadline', async () => {
    const { request } = await granted();
    h.usePolicy({ approvals: { ttl_seconds: 1, quorum: 2 } });
    await sleep(1_050);
    expect(await h.gateway.closeRequest(run, { pending_id: request.pending_id, why: 'deadline' })).toMatchObject({ stop: { stop_reason: 'approval_timeout' } });
  });
});

describe('quorum', () => {
  test('two of two different people grant, and the tool gets both tokens', async () => {
    h.usePolicy({ approvals: { quorum: 2 } });
    const { pending_id } = await ask();
    const one = await h.decide(pending_id);
    expect((await h.decide(pending_id)).status).toBe('already_decided');
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [one.token, one.token] })).toMatchObject({ status: 'waiting', request: { missing: 1 } });
    const two = await h.decide(pending_id, 'approved', 'bob');
    expect(two.status).toBe('accepted');
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [one.token] })).toMatchObject({ status: 'waiting' });
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [one.token, two.token] })).toMatchObject({ status: 'executed' });
    expect(JSON.parse(h.effects[0]?.token ?? '')).toEqual([one.token, two.token]);
  });

  test('a quorum raised after the grant keeps the request open under its old deadline and says what is missing', async () => {
    const { request, token } = await granted();
    h.usePolicy({ approvals: { quorum: 2 } });
    const again = pending(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] }));
    expect(again).toMatchObject({ pending_id: request.pending_id, expires_at: request.expires_at, quorum: 2, missing: 1 });
    const second = await h.decide(request.pending_id, 'approved', 'bob');
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token, second.token] })).toMatchObject({ status: 'executed' });
  });

  test('a vote of somebody who is no approver any more does not count at execution', async () => {
    const { request, token } = await granted();
    await h.admin.query(`UPDATE approvers SET active = false WHERE principal = 'alice'`);
    try {
      expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })).toMatchObject({ status: 'waiting' });
      expect(await h.events(run)).toContain('decision_rejected:not_eligible');
      const other = await h.decide(request.pending_id, 'approved', 'bob');
      expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [other.token] })).toMatchObject({ status: 'executed' });
    } finally {
      await h.admin.query(`UPDATE approvers SET active = true WHERE principal = 'alice'`);
    }
  });
});

describe('tokens that count for nothing are recorded and change nothing', () => {
  const rejected = async (tokens: string[], reason: string): Promise<void> => {
    await ask();
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens })).toMatchObject({ status: 'waiting' });
    expect((await h.events(run)).at(-1)).toBe(`decision_rejected:${reason}`);
    expect(h.effects).toEqual([]);
  };

  test('made up', () => rejected(['not.a.token'], 'malformed'));
  test('alg none', () => rejected([`${btoa(JSON.stringify({ alg: 'none', typ: 'approval+jwt' }))}.${btoa('{}')}.c2ln`.replaceAll('=', '')], 'wrong_alg'));
  test('too large', () => rejected(['x'.repeat(10_000)], 'too_large'));

  test('of another call of the same run', async () => {
    const { token } = await granted('2.1');
    await rejected([token], 'other_request');
  });

  test('of another run', async () => {
    const { token } = await granted();
    run = await h.newRun();
    await rejected([token], 'other_run');
  });

  test('well signed but committed nowhere', async () => {
    const { pending_id } = await ask();
    const { token } = await h.decide(pending_id);
    await h.admin.query('ALTER TABLE decisions DISABLE TRIGGER ALL');
    await h.admin.query('DELETE FROM decisions WHERE pending_id = $1', [pending_id]);
    await h.admin.query('ALTER TABLE decisions ENABLE TRIGGER ALL');
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })).toMatchObject({ status: 'waiting' });
    expect(await h.events(run)).toContain('decision_rejected:not_in_ledger');
  });

  test('a denial sent as a grant, and a grant sent as a denial', async () => {
    const { pending_id } = await ask();
    const { token } = await h.decide(pending_id, 'denied');
    const { requests } = await h.gateway.verifyDecisions(run, { messages: [{ pending_id, signal: 'approval_granted', token }], open: [pending_id] });
    expect(requests[0]?.status).toBe('refused');
    expect(await h.events(run)).toContain('decision_rejected:outcome_mismatch');
  });

  test('after twenty of one request only a counter grows', async () => {
    const { pending_id } = await ask();
    const messages = Array.from({ length: 30 }, () => ({ pending_id, signal: 'approval_granted' as const, token: randomUUID() }));
    expect((await h.gateway.verifyDecisions(run, { messages, open: [pending_id] })).requests).toMatchObject([{ status: 'open' }]);
    expect((await h.events(run)).filter((event) => event.startsWith('decision_rejected'))).toHaveLength(20);
    expect((await h.admin.query('SELECT rejected FROM approval_requests WHERE pending_id = $1', [pending_id])).rows[0]).toEqual({ rejected: 30 });
  });
});

describe('changed after approval', () => {
  test('other arguments under the same call are refused and recorded as call_conflict', async () => {
    const { token } = await granted();
    const result = await h.call(run, '1.1', 'email.send', { ...MAIL, to: 'eve@example.com' }, { tokens: [token] });
    expect(result).toMatchObject({ status: 'refused', final: true, stop: { stop_reason: 'policy_denied', rule: 'call_conflict' } });
    expect(await h.events(run)).toContain('deny:call_conflict');
    expect(h.effects).toEqual([]);
  });

  test('another tool under the same call is refused, also when the first one is done', async () => {
    const { token } = await granted();
    await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] });
    expect(await h.call(run, '1.1', 'db.write', MAIL)).toMatchObject({ status: 'refused', stop: { rule: 'call_conflict' } });
    expect(await h.call(run, '1.1', 'email.send', { to: 'eve' })).toMatchObject({ status: 'refused', stop: { rule: 'call_conflict' } });
  });

  test('arguments altered in the database are not executed', async () => {
    const { request, token } = await granted();
    await h.admin.query('UPDATE arguments SET canonical = $1 WHERE args_hash = $2', ['{"body":"x","to":"eve@example.com"}', request.args_hash]);
    try {
      expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] }))).toBe('policy_denied');
      expect(await h.events(run)).toContain('deny:call_conflict');
      expect(h.effects).toEqual([]);
    } finally {
      await h.admin.query('DELETE FROM arguments WHERE args_hash = $1', [request.args_hash]);
    }
  });

  test('a changed tool voids the approval and the call is asked about anew', async () => {
    const { request, token } = await granted();
    h.useTools(testTools(h.effects).map((tool) => ({ ...tool, version: '2' })));
    const anew = pending(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] }));
    expect(anew.pending_id).not.toBe(request.pending_id);
    expect(await h.events(run)).toEqual(['run_started', 'approval_required', 'approval_granted', 'request_superseded', 'approval_required']);
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })).toMatchObject({ status: 'waiting' });
    const second = await h.decide(anew.pending_id);
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [second.token] })).toMatchObject({ status: 'executed' });
  });

  test('arguments altered in the database are not executed under a changed tool either, also when nobody has to be asked any more', async () => {
    const { request, token } = await granted();
    await h.admin.query('UPDATE arguments SET canonical = $1 WHERE args_hash = $2', ['{"body":"x","to":"eve@example.com"}', request.args_hash]);
    h.usePolicy({ writes: { require_approval: false } });
    h.useTools(testTools(h.effects).map((tool) => ({ ...tool, version: '2' })));
    try {
      expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] }))).toBe('policy_denied');
      expect(h.effects).toEqual([]);
    } finally {
      await h.admin.query('DELETE FROM arguments WHERE args_hash = $1', [request.args_hash]);
    }
  });

  test('a policy that now denies wins over the grant', async () => {
    const { token } = await granted();
    h.usePolicy({ policy: { tool_blocklist: ['email.*'] } });
    expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] }))).toBe('policy_denied');
    expect(h.effects).toEqual([]);
  });

  test('a kill switch engaged after the grant stops the call and closes the request', async () => {
    const { token } = await granted();
    await h.admin.query(`INSERT INTO controls (scope, engaged, changed_by) VALUES ('tool:email.send', true, 'olga')`);
    try {
      expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] }))).toBe('kill_switch');
      expect(h.effects).toEqual([]);
    } finally {
      await h.admin.query('DELETE FROM controls');
    }
  });
});

describe('budgets', () => {
  test('a call reserves its place once, gives it back when refused, and is not counted twice after a grant', async () => {
    h.usePolicy({ budgets: { max_tool_calls: 1 } });
    const { token } = await granted();
    expect(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })).toMatchObject({ status: 'executed' });
    expect(await h.call(run, '2.1', 'email.send', MAIL)).toMatchObject({
      status: 'stopped',
      stop: { stop_reason: 'budget_exceeded', budget: 'max_tool_calls' },
    });
  });

  test('a denied request gives its place back', async () => {
    h.usePolicy({ budgets: { max_tool_calls: 1 }, approvals: { fallback_when_not_approved: 'continue' } });
    const { pending_id } = await ask();
    await h.decide(pending_id, 'denied');
    await h.gateway.verifyDecisions(run, { messages: [], open: [pending_id] });
    expect(await h.call(run, '2.1', 'search.read', { q: 'x' })).toMatchObject({ status: 'executed' });
  });
});

describe('fallback continue', () => {
  test('the same refused call ends the run at the limit, with the reason of the refusal', async () => {
    h.usePolicy({ approvals: { fallback_when_not_approved: 'continue', repeat_refusal_limit: 2 }, policy: { tool_blocklist: ['email.*'] } });
    expect(await h.call(run, '1.1', 'email.send', MAIL)).toMatchObject({ status: 'refused', final: false });
    expect(await h.call(run, '2.1', 'email.send', { ...MAIL, to: 'bob' })).toMatchObject({ status: 'refused', final: false });
    expect(await h.call(run, '3.1', 'email.send', MAIL)).toMatchObject({ status: 'refused', final: true, stop: { stop_reason: 'policy_denied' } });
  });
});

describe('interrupted', () => {
  test('an idempotent tool is called again with the same key', async () => {
    const { token } = await granted('1.1', 'db.write');
    await executing('1.1');
    expect(await h.call(run, '1.1', 'db.write', MAIL, { tokens: [token] })).toMatchObject({ status: 'executed' });
    expect(h.effects.map((effect) => effect.key)).toEqual([`${run.run_id}/${run.first_execution_id}/1.1`]);
  });

  test('any other tool is not: the outcome is unknown and a person must look', async () => {
    const { token } = await granted();
    await executing('1.1');
    expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] }))).toBe('outcome_unknown');
    expect(h.effects).toEqual([]);
    expect(await h.events(run)).toContain('allow:unknown');
  });

  test('an attempt that was overtaken records what it learned and changes no answer', async () => {
    let release = (): void => {};
    h.useTools(testTools(h.effects).map((tool) => ({ ...tool, execute: () => new Promise<void>((resolve) => (release = resolve)), timeout_seconds: 5 })));
    const { token } = await granted();
    const slow = h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] });
    await sleep(100);
    expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL))).toBe('outcome_unknown');
    release();
    expect(stopReason(await slow)).toBe('outcome_unknown');
    expect((await h.events(run)).slice(-2)).toEqual(['allow:unknown', 'outcome_resolved:ok']);
  });

  test('a tool that fails is tried again only when that is safe', async () => {
    h.usePolicy({ writes: { require_approval: false } });
    h.useTools(testTools(h.effects, { fail: true }));
    expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL))).toBe('tool_failed');
    expect(h.effects).toHaveLength(1);
    expect(stopReason(await h.call(run, '2.1', 'db.write', MAIL))).toBe('tool_failed');
    expect(h.effects).toHaveLength(4);
  });

  test('a kill switch engaged while a tool fails stops its next try', async () => {
    h.usePolicy({ writes: { require_approval: false } });
    h.useTools(testTools(h.effects, { fail: true }));
    const failing = h.call(run, '1.1', 'db.write', MAIL);
    await sleep(100);
    await h.admin.query(`INSERT INTO controls (scope, engaged, changed_by) VALUES ('global', true, 'olga')`);
    try {
      expect(await failing).toMatchObject({ status: 'stopped', stop: { reason: expect.stringContaining('kill switch') as string } });
      expect(h.effects).toHaveLength(1);
    } finally {
      await h.admin.query('DELETE FROM controls');
    }
  });

  test('a tool that does not answer in time has an unknown outcome', async () => {
    h.usePolicy({ writes: { require_approval: false } });
    h.useTools(testTools(h.effects, { hang: true }));
    expect(stopReason(await h.call(run, '1.1', 'email.send', MAIL))).toBe('outcome_unknown');
  });
});

describe('runs that the API did not start', () => {
  test('have the agent unverified, and every write asks whatever the policy says', async () => {
    h.usePolicy({ writes: { require_approval: false } });
    run = await h.newRun({ registered: false });
    expect(pending(await h.call(run, '1.1', 'email.send', MAIL)).rule).toBe('unverified');
    expect(await h.call(run, '1.2', 'search.read', { q: 'x' })).toMatchObject({ status: 'executed' });
    expect((await h.admin.query('SELECT agent FROM approval_requests WHERE run_id = $1', [run.run_id])).rows).toEqual([{ agent: 'unverified' }]);
  });

  test('under the id of a registered run are strangers to it', async () => {
    const { token } = await granted();
    const foreign = { run_id: run.run_id, first_execution_id: randomUUID() };
    await h.gateway.openRun(foreign, { input: { agent: 'support', requester: 'x', planner: { type: 'script', calls: [] } } });
    const asked = pending(await h.gateway.callTool(foreign, { call_id: '1.1', tool: 'email.send', args: MAIL, mode: 'execute', tokens: [token] }));
    expect(asked.rule).toBe('unverified');
    expect(await h.gateway.callTool(foreign, { call_id: '1.1', tool: 'email.send', args: MAIL, mode: 'execute', tokens: [token] })).toMatchObject({
      status: 'waiting',
    });
    expect(h.effects).toEqual([]);
  });
});

describe('the end', () => {
  test('a planner that is done ends the run in the transaction that settles its step, once', async () => {
    h.usePlanner(async () => ({ done: 'all is well', usage: { usd: 0.5 } }));
    expect(await h.gateway.planNextStep(run, { step: 1 })).toMatchObject({ status: 'done', result: 'all is well', usage: { steps: 1, usd: 0.5 } });
    expect(await h.events(run)).toEqual(['run_started', 'run_stopped:completed']);
    const stop = { stop_reason: 'completed', reason: 'all is well' };
    expect(await h.gateway.planNextStep(run, { step: 1 })).toEqual({ status: 'stopped', stop });
    expect(await h.gateway.closeRun(run, { stop: { stop_reason: 'cancelled', reason: 'too late' } })).toMatchObject({ ended: stop });
    expect((await h.call(run, '1.1', 'search.read', { q: 'x' })).status).toBe('stopped');
    expect(await h.events(run)).toHaveLength(2);
  });

  test('a run that was stopped while its planner thought stays stopped for that reason', async () => {
    h.usePlanner(async () => {
      await h.gateway.closeRun(run, { stop: { stop_reason: 'cancelled', reason: 'enough' } });
      return { done: true };
    });
    expect(await h.gateway.planNextStep(run, { step: 1 })).toEqual({ status: 'stopped', stop: { stop_reason: 'cancelled', reason: 'enough' } });
    expect(await h.events(run)).toEqual(['run_started', 'run_stopped:cancelled']);
  });

  test('a stopped run executes nothing more, and its open requests are closed', async () => {
    const { request, token } = await granted();
    await h.gateway.closeRun(run, { stop: { stop_reason: 'cancelled', reason: 'cancelled' } });
    expect(await h.events(run)).toEqual(['run_started', 'approval_required', 'approval_granted', 'approval_cancelled', 'run_stopped:cancelled']);
    expect((await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })).status).toBe('stopped');
    expect((await h.call(run, '9.1', 'search.read', { q: 'x' })).status).toBe('stopped');
    expect((await h.decide(request.pending_id, 'denied', 'bob')).status).not.toBe('accepted');
    expect(h.effects).toEqual([]);
  });
});
