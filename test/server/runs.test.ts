import { afterAll, beforeAll, expect, test } from 'vitest';
import type { RunInput } from '../../client/index.ts';
import { NEVER_STARTED, recordGone, recordNeverStarted } from '../../server/closing.ts';
import { deliverDue } from '../../server/delivery.ts';
import type { RunsOnTemporal } from '../../server/ports.ts';
import { recoverStarts, startRun } from '../../server/runs.ts';
import { sweep } from '../../server/sweeper.ts';
import { HoldpointError } from '../../core/errors.ts';
import { eventually } from '../support/index.ts';
import { makeRequest, startTestService, type TestService } from './harness.ts';

let t: TestService;
beforeAll(async () => {
  t = await startTestService({ approvers: 1 });
});
afterAll(() => t.close());

const RUN: RunInput = { agent: 'support', requester: 'rita', goal: 'help', planner: { type: 'script', calls: [] } };

const one = async (sql: string, ...parameters: unknown[]): Promise<Record<string, unknown> | undefined> =>
  (await t.admin.query<Record<string, unknown>>(sql, parameters)).rows[0];

/** Temporal as it looks while it is down. */
const down: RunsOnTemporal = new Proxy({} as RunsOnTemporal, {
  get: (_, name) => (name === 'namespace' ? 'default' : () => Promise.reject(new HoldpointError('temporal_unreachable', 'down'))),
});

test('a start registers the run under its owner, starts its workflow once and binds it', async () => {
  const view = await t.operator.client.startRun(RUN);
  expect(view).toMatchObject({
    status: 'running',
    stop_reason: null,
    owner: 'olga',
    agent: 'support',
    goal: 'help',
    pending: [],
    usage: { steps: 0, tool_calls: 0 },
  });
  expect(view.temporal_web).toBe(`http://127.0.0.1:8233/namespaces/default/workflows/${view.run_id}`);
  const described = await t.temporal.workflow.getHandle(view.run_id).describe();
  expect(described).toMatchObject({ type: 'agentRun', status: { name: 'RUNNING' } });
  expect(await one('SELECT first_execution_id, owner FROM runs WHERE run_id = $1', view.run_id)).toEqual({
    first_execution_id: described.runId,
    owner: 'olga',
  });
  expect((await t.auditor.client.listRuns({ status: 'running' })).map((run) => run.run_id)).toContain(view.run_id);
  await t.temporal.workflow.getHandle(view.run_id).terminate();
});

test("the goal that is shown is the owner's own, whatever the worker's row says of it", async () => {
  const view = await t.operator.client.startRun(RUN);
  await t.worker.query(
    `INSERT INTO run_states (run_id, first_execution_id, registered, agent, owner, requester, goal, input)
     SELECT run_id, first_execution_id, true, agent, owner, requester, 'approve everything', input FROM runs WHERE run_id = $1`,
    [view.run_id],
  );
  expect((await t.operator.client.getRun(view.run_id)).goal).toBe('help');
  await t.temporal.workflow.getHandle(view.run_id).terminate();
});

test('the same idempotency key answers with the same run, also at once; another body is refused', async () => {
  const key = { idempotencyKey: 'order-17' };
  const views = await Promise.all([1, 2, 3, 4].map(() => t.operator.client.startRun(RUN, key)));
  expect(new Set(views.map((view) => view.run_id)).size).toBe(1);
  await expect(t.operator.client.startRun({ ...RUN, goal: 'other' }, key)).rejects.toMatchObject({
    code: 'idempotency_conflict',
    details: { run_id: views[0]?.run_id },
  });
  await t.temporal.workflow.getHandle(views[0]!.run_id).terminate();
});

test('a start while Temporal is down says so, and the run starts once Temporal is back', async () => {
  const error = await startRun({ ...t.service.context, runs: down }, 'olga', RUN, undefined).then(
    () => undefined,
    (thrown: HoldpointError) => thrown,
  );
  expect(error?.code).toBe('temporal_unreachable');
  const runId = String(error?.details['run_id']);
  expect(await t.operator.client.getRun(runId)).toMatchObject({ status: 'running' });
  await t.admin.query(`UPDATE runs SET checked_at = now() - interval '1 minute' WHERE run_id = $1`, [runId]);
  await recoverStarts(t.service.context);
  const described = await eventually(
    () =>
      t.temporal.workflow
        .getHandle(runId)
        .describe()
        .catch(() => undefined),
    'the start',
  );
  await eventually(
    async () => ((await one('SELECT first_execution_id AS id FROM runs WHERE run_id = $1', runId))?.['id'] === described.runId ? true : undefined),
    'the binding',
  );
  await t.temporal.workflow.getHandle(runId).terminate();
});

test('a registered run that Temporal refuses for good is closed', async () => {
  const error = await startRun(
    { ...t.service.context, runs: { ...down, start: () => Promise.reject(new HoldpointError('invalid_run', 'too large')) } },
    'olga',
    RUN,
    'refused',
  ).then(
    () => undefined,
    (thrown: HoldpointError) => thrown,
  );
  expect(error?.code).toBe('invalid_run');
  const row = await one(`SELECT run_id, first_execution_id FROM runs WHERE idempotency_key = 'refused'`);
  expect(row?.['first_execution_id']).toBe(NEVER_STARTED);
  expect(await t.operator.client.getRun(String(row?.['run_id']))).toMatchObject({ status: 'stopped', stop_reason: 'cancelled', reason: 'too large' });
  await recordNeverStarted(t.service.context.pool, String(row?.['run_id']), 'again');
  expect((await t.auditor.client.audit({ run: String(row?.['run_id']) })).events).toHaveLength(1);
});

test('a run that was terminated is swept: requests cancelled, run stopped, both in the audit', async () => {
  const { run_id: runId } = await t.operator.client.startRun(RUN);
  const execution = String((await one('SELECT first_execution_id AS id FROM runs WHERE run_id = $1', runId))?.['id']);
  const made = await makeRequest(t, { runId });
  await t.admin.query('UPDATE approval_requests SET first_execution_id = $2 WHERE run_id = $1', [runId, execution]);
  await t.admin.query('UPDATE calls SET first_execution_id = $2 WHERE run_id = $1', [runId, execution]);
  await t.admin.query(`DELETE FROM run_states WHERE run_id = $1`, [runId]);
  await t.admin.query(
    `INSERT INTO run_states (run_id, first_execution_id, registered, agent, owner, requester, input) SELECT run_id, first_execution_id, true, agent, owner, requester, input FROM runs WHERE run_id = $1`,
    [runId],
  );
  expect(await t.operator.client.getRun(runId)).toMatchObject({
    status: 'waiting',
    stop_reason: 'approval_required',
    pending_id: made.pending_id,
    calls: [{ status: 'waiting' }],
  });

  await sweep(t.service.context, 0);
  expect((await t.operator.client.getRun(runId)).status).toBe('waiting');
  const waiting = t.operator.client.getRun(runId, { wait: 20, until: 'stopped' });
  await t.temporal.workflow.getHandle(runId).terminate();
  await sweep({ ...t.service.context, runs: down }, 0).catch(() => {});
  expect((await t.operator.client.getRun(runId)).status).toBe('waiting');
  await sweep(t.service.context, 0);
  expect(await waiting).toMatchObject({ status: 'stopped', stop_reason: 'cancelled' });
  expect((await t.auditor.client.getApproval(made.pending_id)).status).toBe('cancelled');
  const { events } = await t.auditor.client.audit({ run: runId });
  expect(events.map((event) => [event.outcome, event.reason])).toEqual([
    ['approval_required', null],
    ['approval_cancelled', 'run_gone'],
    ['run_stopped', 'cancelled'],
  ]);
  expect(await recordGone(t.service.context.pool, { run_id: runId, first_execution_id: execution }, 'again')).toBe(false);
  await expect(t.approvers[0]!.client.decide(made.pending_id, { outcome: 'approved' })).rejects.toMatchObject({ code: 'request_closed' });
});

test('a registered run that ended before it reported anything is swept too', async () => {
  const { run_id: runId } = await t.operator.client.startRun(RUN);
  await t.temporal.workflow.getHandle(runId).terminate();
  await t.admin.query(`UPDATE runs SET checked_at = now() - interval '1 minute' WHERE run_id = $1`, [runId]);
  await sweep(t.service.context, 0);
  expect(await t.operator.client.getRun(runId)).toMatchObject({ status: 'stopped', stop_reason: 'cancelled' });
  await expect(t.operator.client.cancelRun(runId)).rejects.toMatchObject({ code: 'run_stopped' });
});

test('a call that executes keeps its request when the run is swept', async () => {
  const made = await makeRequest(t);
  await t.approvers[0]!.client.decide(made.pending_id, { outcome: 'approved' });
  await t.admin.query(`UPDATE calls SET status = 'executing' WHERE pending_id = $1`, [made.pending_id]);
  await recordGone(t.service.context.pool, made, 'gone');
  expect((await t.auditor.client.getApproval(made.pending_id)).status).toBe('approved');
});

test('a decision that Temporal did not take is delivered later, with its token, and then no more', async () => {
  const { run_id: runId } = await t.operator.client.startRun(RUN);
  const made = await makeRequest(t, { runId });
  await t.service.stop();
  await t.restart();
  await t.approvers[0]!.client.decide(made.pending_id, { outcome: 'approved' });
  await eventually(() => one('SELECT 1 FROM decisions WHERE pending_id = $1 AND delivered_at IS NOT NULL', made.pending_id), 'the first delivery');
  await t.admin.query(`UPDATE decisions SET delivered_at = NULL, decided_at = decided_at - interval '1 minute' WHERE pending_id = $1`, [made.pending_id]);
  expect(await deliverDue({ ...t.service.context, runs: down })).toMatchObject({ delivered: 0 });
  await eventually(() => one('SELECT 1 FROM decisions WHERE pending_id = $1 AND delivered_at IS NOT NULL', made.pending_id), 'the delivery by the loop');
  const history = await t.temporal.workflow.getHandle(runId).fetchHistory();
  const signals = (history.events ?? []).flatMap((event) =>
    event.workflowExecutionSignaledEventAttributes ? [event.workflowExecutionSignaledEventAttributes] : [],
  );
  expect(signals.length).toBeGreaterThanOrEqual(2);
  const payload = JSON.parse(Buffer.from(signals[0]?.input?.payloads?.[0]?.data ?? []).toString('utf8')) as { pending_id: string; token: string };
  expect(signals[0]?.signalName).toBe('approval_granted');
  expect(payload).toEqual({ pending_id: made.pending_id, token: (await one('SELECT token FROM decisions WHERE pending_id = $1', made.pending_id))?.['token'] });
  await t.temporal.workflow.getHandle(runId).terminate();
});

test('who waits for a run is answered as soon as it waits for people', async () => {
  const { run_id: runId } = await t.operator.client.startRun(RUN);
  const started = performance.now();
  const waiting = t.operator.client.getRun(runId, { wait: 30 });
  await new Promise((resolve) => setTimeout(resolve, 200));
  const execution = String((await one('SELECT first_execution_id AS id FROM runs WHERE run_id = $1', runId))?.['id']);
  await t.admin.query(
    `INSERT INTO approval_requests SELECT 'apr_waited', $1, $2, call_id, tool, kind, tool_hash, args_hash, preview, agent_reason, reason, rule, tier, policy_hash, agent, owner, requester, quorum,
       ttl_seconds, execute_within_seconds, 'open', created_at, now() + interval '1 hour', token_exp FROM approval_requests LIMIT 1`,
    [runId, execution],
  );
  expect(await waiting).toMatchObject({ status: 'waiting', pending_id: 'apr_waited' });
  expect(performance.now() - started).toBeLessThan(1_500);
  await t.temporal.workflow.getHandle(runId).terminate();
});
