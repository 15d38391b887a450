import { readFile } from 'node:fs/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createVerifier } from '../../adapters/tokens.ts';
import { canonical } from '../../adapters/hashing.ts';
import { transaction } from '../../adapters/database.ts';
import type { HoldpointError } from '../../core/errors.ts';
import { eventually } from '../support/index.ts';
import { makeRequest, startTestService, type TestService } from './harness.ts';

let t: TestService;
beforeAll(async () => {
  t = await startTestService({ approvers: 4 });
});
afterAll(() => t.close());

const refusal = (promise: Promise<unknown>): Promise<HoldpointError> =>
  promise.then(
    () => expect.fail('was accepted'),
    (error: HoldpointError) => error,
  );
const approve = (pendingId: string, who = 0): ReturnType<TestService['operator']['client']['decide']> =>
  t.approvers[who]!.client.decide(pendingId, { outcome: 'approved', reason: 'looks right' });

async function rows(sql: string, ...parameters: unknown[]): Promise<Record<string, unknown>[]> {
  return (await t.admin.query<Record<string, unknown>>(sql, parameters)).rows;
}

test('an approval in time is committed, signed, audited and delivered', async () => {
  const made = await makeRequest(t);
  const answer = await approve(made.pending_id);
  expect(answer).toMatchObject({
    status: 'accepted',
    pending_id: made.pending_id,
    run_id: made.run_id,
    missing: 0,
    decision: { approver: 'approver-1', outcome: 'approved', reason: 'looks right' },
  });

  const [decision] = await rows('SELECT * FROM decisions WHERE pending_id = $1', made.pending_id);
  const verified = await createVerifier(t.config.jwksFile).verify(String(decision?.['token']));
  const [request] = await rows('SELECT * FROM approval_requests WHERE pending_id = $1', made.pending_id);
  expect(verified).toMatchObject({
    ok: true,
    claims: {
      sub: 'approver-1',
      jti: answer.decision.decision_id,
      run_id: made.run_id,
      pending_id: made.pending_id,
      call_id: '1.1',
      args_hash: made.args_hash,
      outcome: 'approved',
      exp: request?.['token_exp'],
      decided_at: answer.decision.decided_at,
    },
  });
  expect(request).toMatchObject({ status: 'approved', resolved_at: decision?.['decided_at'] });
  expect((request?.['usable_until'] as Date).getTime()).toBe((decision?.['decided_at'] as Date).getTime() + 86_400_000);
  expect(
    await rows(`SELECT outcome, approver, token, reason, owner FROM audit_events WHERE run_id = $1 AND outcome = 'approval_granted'`, made.run_id),
  ).toEqual([{ outcome: 'approval_granted', approver: 'approver-1', token: decision?.['token'], reason: 'looks right', owner: 'olga' }]);
  await eventually(async () => (await rows('SELECT 1 FROM decisions WHERE pending_id = $1 AND delivered_at IS NOT NULL', made.pending_id))[0], 'the delivery');
});

test('a denial closes the request and a second person can no longer approve it', async () => {
  const made = await makeRequest(t, { quorum: 2 });
  const answer = await t.approvers[0]!.client.decide(made.pending_id, { outcome: 'denied' });
  expect(answer.status).toBe('accepted');
  expect(await t.auditor.client.getApproval(made.pending_id)).toMatchObject({ status: 'denied', usable_until: null });
  const conflict = await refusal(approve(made.pending_id, 1));
  expect(conflict.code).toBe('decision_conflict');
  expect(conflict.details['first']).toMatchObject({ approver: 'approver-1', outcome: 'denied' });
});

test('ten approvals at once by one person are one decision and nine typed answers', async () => {
  const made = await makeRequest(t);
  const answers = await Promise.all(Array.from({ length: 10 }, () => approve(made.pending_id)));
  expect(answers.filter((answer) => answer.status === 'accepted')).toHaveLength(1);
  expect(answers.filter((answer) => answer.status === 'already_decided')).toHaveLength(9);
  expect(new Set(answers.map((answer) => answer.decision.decision_id)).size).toBe(1);
  expect(await rows('SELECT 1 FROM decisions WHERE pending_id = $1', made.pending_id)).toHaveLength(1);
  expect(await rows(`SELECT 1 FROM audit_events WHERE run_id = $1 AND outcome = 'approval_granted'`, made.run_id)).toHaveLength(1);
});

test('a quorum of two needs two people: the first vote is recorded, the same person twice stays one', async () => {
  const made = await makeRequest(t, { quorum: 2 });
  expect(await approve(made.pending_id, 0)).toMatchObject({ status: 'quorum_pending', missing: 1 });
  expect(await approve(made.pending_id, 0)).toMatchObject({ status: 'already_decided', missing: 1 });
  expect((await t.auditor.client.getApproval(made.pending_id)).status).toBe('open');
  expect(await approve(made.pending_id, 1)).toMatchObject({ status: 'accepted', missing: 0 });
  const outcomes = await rows('SELECT outcome FROM audit_events WHERE run_id = $1 ORDER BY seq', made.run_id);
  expect(outcomes.map((row) => row['outcome'])).toEqual(['approval_required', 'vote_recorded', 'approval_granted']);
});

test('the vote of somebody who lost the role no longer counts for the quorum', async () => {
  const made = await makeRequest(t, { quorum: 2 });
  await approve(made.pending_id, 3);
  await t.admin.query(`UPDATE approvers SET roles = '{auditor}' WHERE principal = 'approver-4'`);
  expect(await approve(made.pending_id, 0)).toMatchObject({ status: 'quorum_pending', missing: 1 });
  await t.admin.query(`UPDATE approvers SET roles = '{approver}' WHERE principal = 'approver-4'`);
});

test('the same person cannot take a decision back', async () => {
  const made = await makeRequest(t, { quorum: 2 });
  await approve(made.pending_id);
  const conflict = await refusal(t.approvers[0]!.client.decide(made.pending_id, { outcome: 'denied' }));
  expect(conflict).toMatchObject({ code: 'decision_conflict', details: { first: { outcome: 'approved' } } });
});

test('owner, requester, agent and people without the role are not eligible', async () => {
  const [one] = t.approvers;
  for (const change of [{ owner: one!.principal }, { requester: one!.principal }, { agent: one!.principal }]) {
    const made = await makeRequest(t, change);
    expect((await refusal(approve(made.pending_id))).code).toBe('not_eligible');
  }
  const made = await makeRequest(t);
  const refused = await refusal(t.auditor.client.decide(made.pending_id, { outcome: 'approved' }));
  expect(refused).toMatchObject({ code: 'not_eligible' });
  expect(refused.message).toContain('role approver');
  expect(await rows('SELECT 1 FROM decisions WHERE pending_id = $1', made.pending_id)).toEqual([]);
});

test('after the deadline by the database clock a decision is late, although nobody closed the request yet', async () => {
  const made = await makeRequest(t, { ttlMs: 1 });
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect((await refusal(approve(made.pending_id))).code).toBe('decision_late');
  await t.admin.query(`UPDATE approval_requests SET status = 'timed_out' WHERE pending_id = $1`, [made.pending_id]);
  expect((await refusal(approve(made.pending_id))).code).toBe('decision_late');
  expect(await rows('SELECT 1 FROM decisions WHERE pending_id = $1', made.pending_id)).toEqual([]);
});

test('who waited for the lock until after the deadline is late: the clock is read after the lock', async () => {
  const made = await makeRequest(t, { ttlMs: 700 });
  const waiting = await transaction(t.worker, async (client) => {
    await client.query('SELECT 1 FROM run_heads WHERE run_id = $1 FOR UPDATE', [made.run_id]);
    const decision = refusal(approve(made.pending_id));
    await new Promise((resolve) => setTimeout(resolve, 1_000));
    return { decision };
  });
  expect((await waiting.decision).code).toBe('decision_late');
});

test('a clock of the service that is off by an hour changes nothing', async () => {
  const made = await makeRequest(t);
  const real = Date.now;
  Date.now = () => real() + 3_600_000;
  try {
    expect(await approve(made.pending_id)).toMatchObject({ status: 'accepted' });
  } finally {
    Date.now = real;
  }
});

test('a closed request is closed', async () => {
  const made = await makeRequest(t);
  await t.admin.query(`UPDATE approval_requests SET status = 'cancelled' WHERE pending_id = $1`, [made.pending_id]);
  expect(await refusal(approve(made.pending_id))).toMatchObject({ code: 'request_closed', details: { status: 'cancelled' } });
});

test('an unknown request is not found', async () => {
  expect((await refusal(approve('apr_unknown'))).code).toBe('not_found');
});

test('altered or erased arguments are not signed and not shown', async () => {
  const made = await makeRequest(t, { args: { to: 'victim@example.org' } });
  await t.admin.query('UPDATE arguments SET canonical = $2 WHERE args_hash = $1', [made.args_hash, canonical({ to: 'attacker@example.org' })]);
  expect((await refusal(approve(made.pending_id))).code).toBe('args_mismatch');
  const view = await t.auditor.client.getApproval(made.pending_id);
  expect(view.args_text).toContain('cannot be decided');
  expect(view.args).toBeNull();
  await t.admin.query('DELETE FROM arguments WHERE args_hash = $1', [made.args_hash]);
  expect((await refusal(approve(made.pending_id))).code).toBe('args_mismatch');
  expect(await rows('SELECT 1 FROM decisions WHERE pending_id = $1', made.pending_id)).toEqual([]);
  expect((await t.auditor.client.getApproval(made.pending_id)).status).toBe('open');
});

test('when the policy asks for more votes now, the first is recorded and the request stays open', async () => {
  const strict = await startTestService({ policy: 'approvals: { required_for: [email.send], quorum: 2 }\n' });
  try {
    const made = await makeRequest(strict, { quorum: 1 });
    expect(await strict.approvers[0]!.client.decide(made.pending_id, { outcome: 'approved' })).toMatchObject({ status: 'quorum_pending', missing: 1 });
    expect(await strict.auditor.client.getApproval(made.pending_id)).toMatchObject({ status: 'open', quorum: 2, missing: 1 });
    expect(await strict.approvers[1]!.client.decide(made.pending_id, { outcome: 'approved' })).toMatchObject({ status: 'accepted' });
  } finally {
    await strict.close();
  }
});

test('what is shown is complete and its hidden characters are written out', async () => {
  const made = await makeRequest(t, { args: { to: 'a\u202Eb', note: 'x'.repeat(5_000) } });
  const view = await t.auditor.client.getApproval(made.pending_id);
  expect(view.args_text).toContain('a\\u{202e}b');
  expect(view.args_text).toContain('x'.repeat(5_000));
  expect(view.args).toEqual({ to: 'a\u202Eb', note: 'x'.repeat(5_000) });
});

test('the private key is in no row and in no other file than its own', async () => {
  const jwks = await readFile(t.config.jwksFile, 'utf8');
  expect(JSON.parse(jwks)).toMatchObject({ keys: [{ alg: 'Ed25519', use: 'sig', iss: 'holdpoint' }] });
  expect(jwks).not.toContain('"d"');
  const [key] = await rows('SELECT jwk FROM signing_keys');
  expect(key?.['jwk']).not.toHaveProperty('d');
});

test('each request needs the votes that the policy’s conditions ask for its own arguments, wherever it is shown', async () => {
  const policy = `policy:
  rules:
    - { id: large, tools: [email.send], when: "args.amount > 100.0 && run.tool_calls == 0 && agent.name == 'support'", effect: approval_required, quorum: 2 }
`;
  const strict = await startTestService({ policy });
  try {
    const small = await makeRequest(strict, { args: { amount: 5 } });
    const large = await makeRequest(strict, { args: { amount: 500 }, runId: small.run_id, callId: '1.2' });
    const erased = await makeRequest(strict, { args: { amount: 6 } });
    await strict.admin.query('DELETE FROM arguments WHERE args_hash = $1', [erased.args_hash]);
    const { client } = strict.auditor;
    const shown = new Map((await client.listApprovals()).map((request) => [request.pending_id, request.quorum]));
    expect([small, large, erased].map(({ pending_id }) => shown.get(pending_id))).toEqual([1, 2, 2]);
    expect((await client.getRun(small.run_id)).pending.map(({ quorum, missing }) => [quorum, missing])).toEqual([
      [1, 1],
      [2, 2],
    ]);
    expect(await client.getApproval(large.pending_id)).toMatchObject({ quorum: 2, missing: 2 });
    expect(await strict.approvers[0]!.client.decide(small.pending_id, { outcome: 'approved' })).toMatchObject({ status: 'accepted' });
    expect(await strict.approvers[0]!.client.decide(large.pending_id, { outcome: 'approved' })).toMatchObject({ status: 'quorum_pending', missing: 1 });
    expect(await strict.approvers[1]!.client.decide(large.pending_id, { outcome: 'approved' })).toMatchObject({ status: 'accepted' });
  } finally {
    await strict.close();
  }
});
