import { spawn, type ChildProcess } from 'node:child_process';
import { Connection, WorkflowNotFoundError } from '@temporalio/client';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { freePort } from '../../cli/stack/ports.ts';
import { LIMITS } from '../../core/words.ts';
import type { CallInput, RequestState, VerifyInput } from '../../core/run-contract.ts';
import { plainEnvironment } from '../support/environment.ts';
import { eventually } from '../support/index.ts';
import { approved, call, executed, gated, open, refusedState, startHarness, waiting, type Harness, type ScriptedRun } from './harness.ts';
import { replayAndKeep } from './recordings.ts';

let server: ChildProcess;
let harness: Harness;

/** A bare server, without our search attributes, that suggests to continue as new after a few events. */
beforeAll(async () => {
  const port = await freePort();
  const address = `127.0.0.1:${port}`;
  const values = ['limit.historyCount.suggestContinueAsNew=60', 'system.enableActivityEagerExecution=true'].flatMap((value) => [
    '--dynamic-config-value',
    value,
  ]);
  server = spawn(
    inject('temporalProgram'),
    ['server', 'start-dev', '--headless', '--ip', '127.0.0.1', '--port', String(port), '--log-level', 'error', ...values],
    { stdio: 'ignore' },
  );
  const connection = await eventually(() => Connection.connect({ address, connectTimeout: 500 }).catch(() => undefined), 'the server answers');
  await eventually(() => connection.workflowService.describeNamespace({ namespace: 'default' }).catch(() => undefined), 'the namespace is there');
  await connection.close();
  harness = await startHarness({ temporal: plainEnvironment(address) });
});
afterAll(async () => {
  await harness?.stop();
  server?.kill('SIGTERM');
});

const executions = async (run: ScriptedRun): Promise<number> => {
  let count = 0;
  for await (const info of harness.client.workflow.list({ query: `WorkflowId = '${run.handle.workflowId}'` })) count += info.runId ? 1 : 0;
  return count;
};
const chain = async (run: ScriptedRun): Promise<{ run: string; first: string }> => {
  const { raw } = await run.handle.describe();
  return { run: raw.workflowExecutionInfo?.execution?.runId ?? '', first: raw.workflowExecutionInfo?.firstRunId ?? '' };
};

/** A run that asks the ledger by itself may have found the decision, and be done, before its signal comes. */
async function grantUnlessDone(run: ScriptedRun, pendingId: string): Promise<void> {
  await run.grant(pendingId).catch((error: unknown) => expect(error).toBeInstanceOf(WorkflowNotFoundError));
}

test('a long run continues as new between steps, and the gateway sees one run', async () => {
  const run = await harness.start({ steps: Array.from({ length: 20 }, (_, index) => [call(`tool.${index}`)]), call: executed });
  expect((await run.result()).stop_reason).toBe('completed');
  const { run: last, first } = await chain(run);
  expect(last).not.toBe(first);
  expect(new Set(run.asked<CallInput>('callTool').map((input) => input.first_execution_id))).toEqual(new Set([first]));
  expect(run.asked<CallInput>('callTool').map((input) => input.call_id)).toEqual(Array.from({ length: 20 }, (_, index) => `${index + 1}.1`));
  expect(run.asked('openRun')).toHaveLength(1);
  expect((await run.state()).calls).toHaveLength(20);
});

test('a waiting run continues as new with its requests, its deadline and its mail', async () => {
  const run = await harness.start({ steps: [[call('a'), call('b')]], call: gated(20_000) });
  const before = await run.waiting();
  for (let index = 0; index < 70; index += 1) await run.handle.signal<unknown[]>('approval_granted', index);
  await eventually(async () => ((await chain(run)).run !== (await chain(run)).first ? true : undefined), 'it continued as new');
  expect((await run.waiting()).pending).toEqual(before.pending);
  expect(run.asked('callTool')).toHaveLength(2);
  await run.grant('apr_1_1');
  await eventually(async () => ((await run.state()).pending[0]?.pending_id === 'apr_1_2' ? true : undefined), 'the second waits');
  await run.grant('apr_1_2');
  expect((await run.result()).stop_reason).toBe('completed');
  expect(
    run
      .asked<CallInput>('callTool')
      .filter((input) => input.tokens)
      .map((input) => input.call_id),
  ).toEqual(['1.1', '1.2']);
  await replayAndKeep('continued', run);
});

test('the deadline of a request survives continuing as new', async () => {
  const run = await harness.start({ steps: [[call('a')]], call: gated(5_000) });
  const began = Date.now();
  await run.waiting();
  for (let index = 0; index < 70; index += 1) await run.handle.signal<unknown[]>('approval_granted', index);
  await eventually(async () => ((await chain(run)).run !== (await chain(run)).first ? true : undefined), 'it continued as new');
  expect((await run.result()).stop_reason).toBe('approval_timeout');
  expect(Date.now() - began).toBeGreaterThan(4_900);
  expect(Date.now() - began).toBeLessThan(9_000);
});

test('a grant behind a waiting call is not lost when the run continues as new', async () => {
  const granted = new Set<string>();
  const state = (id: string): RequestState => (granted.has(id) ? approved(id) : open(id));
  const run = await harness.start({
    steps: [[call('a'), call('b')]],
    call: (input) => (input.tokens ? executed() : waiting(input, `apr_${input.tool}`)),
    verify: (input) => input.open.map(state),
  });
  await run.waiting();
  granted.add('apr_b');
  await run.grant('apr_b');
  await eventually(async () => ((await run.state()).calls[1]?.status === 'ready' ? true : undefined), 'the second is granted');
  for (let index = 0; index < 70; index += 1) await run.handle.signal<unknown[]>('approval_granted', index);
  await eventually(async () => ((await chain(run)).run !== (await chain(run)).first ? true : undefined), 'it continued as new');
  granted.add('apr_a');
  await grantUnlessDone(run, 'apr_a');
  expect((await run.result()).stop_reason).toBe('completed');
  expect(
    run
      .asked<CallInput>('callTool')
      .filter((input) => input.tokens)
      .map((input) => input.tool),
  ).toEqual(['a', 'b']);
});

test('decisions in a flood that spans several executions are found: the ledger is asked after every batch', async () => {
  let decided = false;
  const run = await harness.start({
    steps: [[call('a')]],
    call: gated(),
    verify: (input: VerifyInput) => input.open.map((id) => (decided ? approved(id) : open(id))),
  });
  await run.waiting();
  for (let sent = 0; sent < 1_000; sent += 100)
    await Promise.all(Array.from({ length: 100 }, (_, index) => run.deny('apr_1_1', `${'j'.repeat(2_000)}.${sent + index}`)));
  decided = true;
  await grantUnlessDone(run, 'apr_1_1');
  expect((await run.result()).stop_reason).toBe('completed');
  expect(await executions(run)).toBeGreaterThan(1);
  expect(run.asked<VerifyInput>('verifyDecisions').every((input) => input.messages.length <= LIMITS.batch)).toBe(true);
});

test('a run that continues as new stays visible: its search attributes and what it waits for', async () => {
  const { operatorService } = harness.client.connection as Connection;
  const names = ['HoldpointStatus', 'HoldpointAgent', 'HoldpointStopReason'];
  await operatorService.addSearchAttributes({ namespace: 'default', searchAttributes: Object.fromEntries(names.map((name) => [name, 2])) });
  const run = await harness.start({ steps: [[call('a')]], call: gated(), searchAttributes: true });
  await run.waiting();
  for (let index = 0; index < 70; index += 1) await run.handle.signal<unknown[]>('approval_granted', index);
  await eventually(async () => ((await chain(run)).run !== (await chain(run)).first ? true : undefined), 'it continued as new');
  await run.waiting();
  const described = await run.handle.describe();
  expect(described.searchAttributes).toMatchObject({ HoldpointStatus: ['waiting'], HoldpointAgent: ['bot'] });
  expect((await run.handle.query<{ currentDetails?: string }>('__temporal_workflow_metadata')).currentDetails).toContain('Agent bot: to test');
  await run.grant('apr_1_1');
  await run.result();
  expect((await run.handle.describe()).searchAttributes).toMatchObject({ HoldpointStatus: ['stopped'], HoldpointStopReason: ['completed'] });
});

test('a run that was cancelled while it continued as new is cancelled', async () => {
  const run = await harness.start({ steps: [[call('a')]], call: gated(), close: (input) => refusedState(input.pending_id, 'cancelled') });
  await run.waiting();
  for (let index = 0; index < 70; index += 1) await run.handle.signal<unknown[]>('approval_granted', index);
  await eventually(async () => ((await chain(run)).run !== (await chain(run)).first ? true : undefined), 'it continued as new');
  await run.handle.cancel();
  await run.handle.result().catch(() => {});
  expect((await run.handle.describe()).status.name).toBe('CANCELLED');
  expect(run.asked('closeRun')).toHaveLength(1);
});
