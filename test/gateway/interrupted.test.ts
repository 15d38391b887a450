/** What is given up, waited for or interrupted in the middle, on a real ledger. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
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

const MAIL = { to: 'ann@example.com', body: 'x' };
function pending(result: CallResult): PendingView {
  if (result.status !== 'waiting') throw new Error(`not waiting: ${JSON.stringify(result)}`);
  return result.request;
}

/** A planner whose first attempt answers when it is told to, after another attempt has planned a mail. */
function slowFirstAttempt(): { release: (answer: unknown) => void } {
  let release: (answer: unknown) => void = () => {};
  const slow = new Promise((resolve) => {
    release = resolve;
  });
  let asked = 0;
  h.usePlanner(() => {
    asked += 1;
    return asked === 1 ? slow : Promise.resolve({ calls: [{ tool: 'email.send', args: MAIL }] });
  });
  return { release };
}

test('an attempt of the planner that was given up and is done late ends neither the run nor what it waits for', async () => {
  const { release } = slowFirstAttempt();
  const first = h.gateway.planNextStep(run, { step: 1 });
  await sleep(200);
  expect((await h.gateway.planNextStep(run, { step: 1 })).status).toBe('calls');
  const request = pending(await h.call(run, '1.1', 'email.send', MAIL));
  release({ done: true });
  expect(await first).toEqual({ status: 'done' });
  const { status, token } = await h.decide(request.pending_id);
  expect(status).toBe('accepted');
  expect((await h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] })).status).toBe('executed');
  expect(h.effects).toHaveLength(1);
  expect(await h.events(run)).not.toContain('run_stopped:completed');
});

test('a late attempt ends nothing while people are asked, even when no newer one has begun', async () => {
  const request = pending(await h.call(run, '1.1', 'email.send', MAIL));
  h.usePlanner(async () => ({ done: true }));
  expect(await h.gateway.planNextStep(run, { step: 6 })).toEqual({ status: 'done' });
  expect((await h.decide(request.pending_id)).status).toBe('accepted');
});

test('a right that is taken away while the call waits for the kill switch takes the vote along', async () => {
  const request = pending(await h.call(run, '1.1', 'email.send', MAIL));
  const { token } = await h.decide(request.pending_id);
  const client = await h.admin.connect();
  try {
    await client.query('BEGIN');
    await client.query(`SELECT pg_advisory_xact_lock(hashtext('holdpoint-controls'))`);
    const call = h.call(run, '1.1', 'email.send', MAIL, { tokens: [token] });
    await sleep(300);
    await h.admin.query(`UPDATE approvers SET active = false WHERE principal = 'alice'`);
    await client.query('COMMIT');
    expect((await call).status).toBe('waiting');
    expect(h.effects).toEqual([]);
    expect(await h.events(run)).toContain('decision_rejected:not_eligible');
  } finally {
    client.release();
    await h.admin.query(`UPDATE approvers SET active = true WHERE principal = 'alice'`);
  }
});

test('a call that was allowed, interrupted and has to ask now is not repeated on a request that nobody granted', async () => {
  pending(await h.call(run, '1.1', 'db.write', MAIL));
  h.useTools(testTools(h.effects).map((tool) => ({ ...tool, version: '2' })));
  h.usePolicy({ writes: { require_approval: false } });
  expect((await h.call(run, '1.1', 'db.write', MAIL)).status).toBe('executed');
  await h.admin.query(`UPDATE calls SET status = 'executing', fence = fence + 1 WHERE run_id = $1`, [run.run_id]);
  h.usePolicy({});
  expect(await h.call(run, '1.1', 'db.write', MAIL)).toMatchObject({ status: 'stopped', stop: { stop_reason: 'outcome_unknown' } });
  expect(h.effects).toHaveLength(1);
});

test('a granted call that was interrupted is repeated with the same key and the tokens that it used', async () => {
  const request = pending(await h.call(run, '1.1', 'db.write', MAIL));
  const { token } = await h.decide(request.pending_id);
  expect((await h.call(run, '1.1', 'db.write', MAIL, { tokens: [token] })).status).toBe('executed');
  await h.admin.query(`UPDATE calls SET status = 'executing', fence = fence + 1 WHERE run_id = $1`, [run.run_id]);
  expect((await h.call(run, '1.1', 'db.write', MAIL)).status).toBe('executed');
  expect(h.effects.map((effect) => effect.token)).toEqual([token, token]);
  expect(new Set(h.effects.map((effect) => effect.key)).size).toBe(1);
});

test('what is read in one statement is what is read row by row, in any time zone', async () => {
  const first = pending(await h.call(run, '1.1', 'email.send', MAIL));
  await h.admin.query(`ALTER ROLE holdpoint_worker SET timezone = 'America/St_Johns'`);
  try {
    const again = pending(await h.call(run, '1.1', 'email.send', MAIL));
    expect({ ...again, remaining_ms: 0 }).toEqual({ ...first, remaining_ms: 0 });
    expect(Math.abs(again.remaining_ms - first.remaining_ms)).toBeLessThan(10_000);
  } finally {
    await h.admin.query('ALTER ROLE holdpoint_worker RESET timezone');
  }
});
