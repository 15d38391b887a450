import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventually } from '../support/index.ts';
import { MAIL, Parts, pendingOf, SEND, WRITE } from './parts.ts';

/** Every stop reason of the specification, each by a real run. `outcome_unknown` is in kills.test.ts. */
let parts: Parts;
beforeAll(async () => {
  parts = await Parts.start({
    config: 'approvals: { ttl_seconds: 6, execute_within_seconds: 8 }\nbudgets: { max_tool_calls: 3 }\npolicy: { tool_blocklist: [crm.*] }\n',
  });
});
afterAll(() => parts.close());

const READ = { tool: 'search.read', args: { query: 'x' } };
const reasonOf = async (runId: string): Promise<string> => String((await parts.stopped(runId)).stop_reason);
const approve = (pendingId: string) => parts.as('approver').decide(pendingId, { outcome: 'approved' });

test('completed: approved in time, executed, recorded', async () => {
  const run = await parts.run([READ, SEND]);
  await approve(pendingOf(run));
  expect(await reasonOf(run.run_id)).toBe('completed');
  expect(await parts.events(run.run_id)).toEqual([
    'run_started',
    'allow',
    'approval_required',
    'approval_granted',
    'execution_started',
    'allow',
    'run_stopped',
  ]);
});

test('approval_required is the answer while a run waits, with the id of the request', async () => {
  const run = await parts.run([SEND]);
  expect(run).toMatchObject({ status: 'waiting', stop_reason: 'approval_required', pending: [{ tool: 'email.send' }] });
  expect(run.pending_id).toMatch(/^apr_[a-z2-7]{26}$/);
  await parts.as('operator').cancelRun(run.run_id);
});

test('approval_denied', async () => {
  const run = await parts.run([SEND]);
  await parts.as('approver').decide(pendingOf(run), { outcome: 'denied', reason: 'no' });
  expect(await reasonOf(run.run_id)).toBe('approval_denied');
});

test('approval_timeout', async () => {
  const run = await parts.run([SEND], { ttl_seconds: 1 });
  expect(await reasonOf(run.run_id)).toBe('approval_timeout');
});

test('policy_denied', async () => {
  const run = await parts.run([{ tool: 'crm.delete_contact', args: { contact_id: '1' } }]);
  expect(run).toMatchObject({ status: 'stopped', stop_reason: 'policy_denied' });
  expect(await parts.events(run.run_id)).toEqual(['run_started', 'deny:policy_denied', 'run_stopped']);
});

test('budget_exceeded names the budget', async () => {
  const run = await parts.run([READ, { tool: 'search.read', args: { query: 'y' } }, { tool: 'search.read', args: { query: 'z' } }, READ]);
  expect(run).toMatchObject({ status: 'stopped', stop_reason: 'budget_exceeded', reason: expect.stringContaining('max_tool_calls') as string });
});

test('kill_switch stops a waiting run at once, and a new one before it does anything; released, runs go on', async () => {
  const waiting = await parts.run([SEND], { agent: 'doomed' });
  await parts.as('operator').setControl({ engaged: true, agent: 'doomed', reason: 'it went mad' });
  expect(await reasonOf(waiting.run_id)).toBe('kill_switch');
  expect(await parts.run([READ], { agent: 'doomed' })).toMatchObject({ status: 'stopped', stop_reason: 'kill_switch' });
  expect(await parts.run([READ])).toMatchObject({ stop_reason: 'completed' });
  await parts.as('operator').setControl({ engaged: false, agent: 'doomed' });
  expect(await parts.run([READ], { agent: 'doomed' })).toMatchObject({ stop_reason: 'completed' });
});

test('cancelled: the request is closed, and the workflow closes as canceled', async () => {
  const run = await parts.run([SEND]);
  await parts.as('operator').cancelRun(run.run_id);
  expect(await reasonOf(run.run_id)).toBe('cancelled');
  expect(await parts.events(run.run_id)).toEqual(['run_started', 'approval_required', 'approval_cancelled', 'run_stopped']);
  const client = await parts.temporal();
  const status = await eventually(async () => {
    const { status: found } = await client.workflow.getHandle(run.run_id).describe();
    return found.name === 'RUNNING' ? undefined : found.name;
  }, 'the workflow closes');
  expect(status).toBe('CANCELLED');
});

test('approval_expired_unused: approved, but no worker was there in time', async () => {
  const run = await parts.run([SEND]);
  await parts.stop('worker');
  await approve(pendingOf(run));
  await sleep(8_500);
  await parts.startWorker();
  expect(await reasonOf(run.run_id)).toBe('approval_expired_unused');
  expect(await parts.effects(run.run_id)).toEqual([]);
});

test('tool_failed, after its retries', async () => {
  const run = await parts.run([{ tool: 'http.get', args: { url: 'http://127.0.0.1:1/' } }]);
  expect(run).toMatchObject({ stop_reason: 'tool_failed', reason: expect.stringContaining('127.0.0.1') as string });
});

test('planner_failed, after three calls in a row that are none', async () => {
  const run = await parts.run([
    { tool: 'no.such', args: {} },
    { tool: 'email.send', args: { to: 'nobody' } },
    { tool: 'constructor', args: null },
  ]);
  expect(run).toMatchObject({ stop_reason: 'planner_failed' });
  expect(await parts.events(run.run_id)).toEqual(['run_started', 'deny:unknown_tool', 'deny:invalid_arguments', 'deny:unknown_tool', 'run_stopped']);
});

test('an approval of one call lets no other through: the second write of a run asks again', async () => {
  const run = await parts.run([SEND, { tool: 'email.send', args: { ...MAIL, to: 'bob@example.com' } }]);
  await approve(pendingOf(run));
  const second = await eventually(async () => {
    const view = await parts.as('operator').getRun(run.run_id);
    return view.pending_id !== null && view.pending_id !== run.pending_id ? view : undefined;
  }, 'the second call asks');
  expect(await parts.effects(run.run_id)).toHaveLength(1);
  await parts.as('approver').decide(pendingOf(second), { outcome: 'denied' });
  expect(await reasonOf(run.run_id)).toBe('approval_denied');
});

test('a reset run whose planner answers differently is refused, recorded and not executed', async () => {
  const run = await parts.run([WRITE, SEND]);
  const client = await parts.temporal();
  // The planner that answers differently: its script is rewritten in the ledger, as only a superuser could.
  const other = { agent: 'support', requester: 'rita', planner: { type: 'script', calls: [{ tool: 'db.write', args: { key: 'k', value: 'other' } }] } };
  await parts.admin.query('UPDATE run_states SET input = $2 WHERE run_id = $1', [run.run_id, JSON.stringify(other)]);
  const handle = client.workflow.getHandle(run.run_id);
  const history = await handle.fetchHistory();
  const opened = (history.events ?? []).filter((event) => event.workflowTaskCompletedEventAttributes)[0];
  await client.workflowService.resetWorkflowExecution({
    namespace: 'default',
    workflowExecution: { workflowId: run.run_id, runId: (await handle.describe()).runId },
    workflowTaskFinishEventId: opened?.eventId ?? null,
    reason: 'test',
    requestId: crypto.randomUUID(),
  });
  expect(await reasonOf(run.run_id)).toBe('policy_denied');
  expect(await parts.events(run.run_id)).toContain('deny:call_conflict');
  expect(await parts.effects(run.run_id)).toEqual([]);
});
