import { randomUUID } from 'node:crypto';
import { Client } from '@temporalio/client';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import {
  cancelRun,
  connectTemporal,
  deliverDecision,
  describeRun,
  notifyControls,
  type StartRequest,
  startRegisteredRun,
  type TemporalClient,
} from '../../client/temporal.ts';
import { freePort } from '../../cli/stack/ports.ts';
import { ERROR_TABLE } from '../../core/errors.ts';
import { connect } from '../support/environment.ts';
import { call, executed, gated, startHarness, type Harness } from './harness.ts';

let harness: Harness;
let client: TemporalClient;
beforeAll(async () => {
  Object.assign(process.env, inject('temporalEnvironment'));
  [harness, client] = await Promise.all([startHarness(), connectTemporal()]);
});
afterAll(async () => {
  await client.connection.close();
  await harness.stop();
});

const startRequest = (more: Partial<StartRequest> = {}): StartRequest => ({
  run_id: `run_${randomUUID()}`,
  start_request_id: randomUUID(),
  task_queue: harness.taskQueue,
  summary: 'bot: to test',
  details: '**details**',
  input: { agent: 'bot', requester: 'rita', planner: { type: 'script', calls: [] } },
  ...more,
});

test('repeating a start answers with the same execution, also when the run has closed', async () => {
  const request = startRequest();
  const run = harness.expectRun(request.run_id, { steps: [[call('a')]], call: gated() });
  const first = await startRegisteredRun(client, request);
  expect(await startRegisteredRun(client, request)).toBe(first);
  await run.waiting();
  expect(run.asked<{ first_execution_id: string; input: unknown }>('openRun')).toEqual([{ first_execution_id: first, input: request.input }]);
  await run.grant('apr_1_1');
  await run.result();
  expect(await startRegisteredRun(client, request)).toBe(first);
  const summary = (await run.handle.fetchHistory()).events?.[0]?.userMetadata?.summary?.data;
  expect(new TextDecoder().decode(summary ?? undefined)).toBe('"bot: to test"');
});

test('a workflow that somebody else started under the id is an error, open or closed', async () => {
  const request = startRequest();
  const run = harness.expectRun(request.run_id, { steps: [[call('a')]], call: gated() });
  await harness.client.workflow.start('agentRun', { workflowId: request.run_id, taskQueue: harness.taskQueue, args: [{}] });
  await expect(startRegisteredRun(client, request)).rejects.toMatchObject({ code: 'idempotency_conflict' });
  await run.handle.terminate();
  await expect(startRegisteredRun(client, request)).rejects.toMatchObject({ code: 'idempotency_conflict' });
});

test('a decision is delivered to an open run and finds a closed or unknown one gone', async () => {
  const request = startRequest();
  const run = harness.expectRun(request.run_id, { steps: [[call('a')]], call: gated() });
  const first = await startRegisteredRun(client, request);
  await run.waiting();
  expect(await describeRun(client, request.run_id)).toBe('running');
  expect(await describeRun(client, request.run_id, first)).toBe('running');
  expect(await notifyControls(client, request.run_id)).toBe('delivered');
  const decision = { run_id: request.run_id, outcome: 'approved', pending_id: 'apr_1_1', token: 'good' } as const;
  expect(await deliverDecision(client, decision)).toBe('delivered');
  expect((await run.result()).stop_reason).toBe('completed');
  expect(await deliverDecision(client, decision)).toBe('gone');
  expect(await cancelRun(client, 'run_unknown')).toBe('gone');
  expect(await deliverDecision(client, { ...decision, run_id: 'run_unknown' })).toBe('gone');
  expect(await describeRun(client, request.run_id, first)).toEqual({ closed: 'COMPLETED' });
  expect(await describeRun(client, 'run_unknown')).toBe('not_found');
  expect(await describeRun(client, request.run_id, randomUUID())).toBe('not_found');
});

test('a run that took the id after ours closed is not ours', async () => {
  const request = startRequest();
  const run = harness.expectRun(request.run_id, { steps: [], call: executed });
  const first = await startRegisteredRun(client, request);
  await run.result();
  harness.expectRun(request.run_id, { steps: [[call('a')]], call: gated() });
  await harness.client.workflow.start('agentRun', {
    workflowId: request.run_id,
    taskQueue: harness.taskQueue,
    args: [{}],
    workflowIdReusePolicy: 'ALLOW_DUPLICATE',
  });
  expect(await describeRun(client, request.run_id, first)).toEqual({ closed: 'COMPLETED' });
  await expect(startRegisteredRun(client, request)).rejects.toMatchObject({ code: 'idempotency_conflict' });
  await harness.client.workflow.getHandle(request.run_id).terminate();
});

test('a run has its search attributes from the start, where the namespace knows them, and sets no more than what changes', async () => {
  const request = startRequest();
  const run = harness.expectRun(request.run_id, { steps: [[call('a')]], call: executed, searchAttributes: true });
  await startRegisteredRun(client, request);
  await run.result();
  const events = (await run.handle.fetchHistory()).events ?? [];
  const given = Object.keys(events[0]?.workflowExecutionStartedEventAttributes?.searchAttributes?.indexedFields ?? {});
  expect(given.sort()).toEqual(['HoldpointAgent', 'HoldpointStatus']);
  const upserts = events.flatMap((event) => event.upsertWorkflowSearchAttributesEventAttributes?.searchAttributes?.indexedFields ?? []);
  expect(upserts.map((fields) => Object.keys(fields).sort())).toEqual([['HoldpointStatus', 'HoldpointStopReason']]);
});

test('a cancelled run is closed as CANCELED', async () => {
  const request = startRequest();
  const run = harness.expectRun(request.run_id, { steps: [[call('a')]], call: gated() });
  const first = await startRegisteredRun(client, request);
  await run.waiting();
  expect(await cancelRun(client, request.run_id)).toBe('delivered');
  await run.handle.result().catch(() => {});
  expect(await describeRun(client, request.run_id, first)).toEqual({ closed: 'CANCELED' });
});

test('a namespace that is not there is no run that is gone', async () => {
  const connection = await connect(inject('temporalEnvironment'));
  const lost = new Client({ connection, namespace: 'nowhere' });
  await expect(deliverDecision(lost, { run_id: 'r', outcome: 'denied', pending_id: 'p', token: 't' })).rejects.toMatchObject({ code: 'temporal_unreachable' });
  await expect(describeRun(lost, 'r')).rejects.toMatchObject({ code: 'temporal_unreachable' });
  await connection.close();
});

test('a server that does not answer is temporal_unreachable with exit code 7', async () => {
  const before = process.env.TEMPORAL_ADDRESS;
  process.env.TEMPORAL_ADDRESS = `127.0.0.1:${await freePort()}`;
  await expect(connectTemporal()).rejects.toMatchObject({ code: 'temporal_unreachable', message: expect.stringContaining(process.env.TEMPORAL_ADDRESS) });
  expect(ERROR_TABLE.temporal_unreachable.exit).toBe(7);
  process.env.TEMPORAL_ADDRESS = before;
});
