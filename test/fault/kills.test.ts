import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Parts, pendingOf, SEND, WRITE } from './parts.ts';

let parts: Parts;
beforeAll(async () => {
  parts = await Parts.start();
});
afterAll(() => parts.close());

/** Runs one call whose effect kills the worker on the next line, starts the worker again, and lets the run end. */
async function dieAfterEffect(call: { tool: string; args: unknown }) {
  const marker = join(parts.folder, `died-${call.tool}`);
  await parts.stop('worker');
  await parts.startWorker({ HOLDPOINT_FAULT_AFTER_EFFECT: call.tool, HOLDPOINT_FAULT_MARKER: marker });
  const run = await parts.run([call]);
  await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' });
  await parts.died('worker');
  expect(existsSync(marker)).toBe(true);
  await parts.startWorker();
  return { run: await parts.stopped(run.run_id), effects: await parts.effects(run.run_id), events: await parts.events(run.run_id) };
}

test('kill -9 on the line after the effect: the idempotent tool is called again and is one effect by its key', async () => {
  const { run, effects, events } = await dieAfterEffect(WRITE);
  expect(run.stop_reason).toBe('completed');
  expect(effects).toHaveLength(1);
  const rows = await parts.admin.query('SELECT 1 FROM examples.records WHERE idempotency_key = $1', [effects[0]?.idempotency_key]);
  expect(rows.rowCount).toBe(1);
  expect(events).toEqual(['run_started', 'approval_required', 'approval_granted', 'execution_started', 'execution_started', 'allow', 'run_stopped']);
});

test('kill -9 on the line after the effect: any other tool is never called twice, its outcome is unknown', async () => {
  const { run, effects, events } = await dieAfterEffect(SEND);
  expect(run.stop_reason).toBe('outcome_unknown');
  expect(effects).toHaveLength(1);
  expect(events).toEqual(['run_started', 'approval_required', 'approval_granted', 'execution_started', 'allow', 'run_stopped']);
});

test('ten approvals at once: one effect, and every answer says what became of it', async () => {
  const run = await parts.run([SEND]);
  const answers = await Promise.all(Array.from({ length: 10 }, () => parts.as('approver').decide(pendingOf(run), { outcome: 'approved' })));
  expect(answers.map((answer) => answer.status).sort()).toEqual(['accepted', ...Array.from({ length: 9 }, () => 'already_decided')].sort());
  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'completed' });
  expect(await parts.effects(run.run_id)).toHaveLength(1);
});

test('a decision that was committed while the service was killed is delivered by the next one', async () => {
  const run = await parts.run([SEND]);
  await parts.stop('worker');
  await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' });
  await parts.stop('serve');
  await parts.admin.query('UPDATE decisions SET delivered_at = NULL WHERE run_id = $1', [run.run_id]);
  await parts.startServe();
  await parts.startWorker();
  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'completed' });
  expect(await parts.effects(run.run_id)).toHaveLength(1);
});

test('a worker that is killed while runs wait loses none of them', async () => {
  const runs = await Promise.all([parts.run([SEND]), parts.run([WRITE]), parts.run([SEND, WRITE])]);
  await parts.stop('worker');
  await parts.startWorker();
  for (const run of runs) await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' });
  expect(await parts.stopped(runs[0]?.run_id ?? '')).toMatchObject({ stop_reason: 'completed' });
  expect(await parts.stopped(runs[1]?.run_id ?? '')).toMatchObject({ stop_reason: 'completed' });
  for (const run of runs.slice(0, 2)) expect(await parts.effects(run.run_id)).toHaveLength(1);
});

test('a run that somebody terminates executes nothing more, and the sweeper closes its request and says why', async () => {
  const run = await parts.run([SEND]);
  const client = await parts.temporal();
  await client.workflow.getHandle(run.run_id).terminate('gone');
  await parts.stopped(run.run_id);
  expect(await parts.as('operator').getRun(run.run_id)).toMatchObject({ stop_reason: 'cancelled', pending: [] });
  expect((await parts.events(run.run_id)).slice(-2)).toEqual(['approval_cancelled', 'run_stopped']);
  await expect(parts.as('approver').decide(pendingOf(run), { outcome: 'approved' })).rejects.toMatchObject({ code: 'request_closed' });
  expect(await parts.effects(run.run_id)).toEqual([]);
});
