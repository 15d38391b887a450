import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { promisify } from 'node:util';
import type { Payload } from '@temporalio/common';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import type { CallInput, VerifyInput } from '../../core/run-contract.ts';
import { LIMITS } from '../../core/words.ts';
import { eventually } from '../support/index.ts';
import { approved, call, executed, gated, open, startHarness, waiting, type Harness, type ScriptedRun } from './harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.stop());

const one = [[call('email.send')]];
const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
const payload = (encoding: string | undefined, data: string): Payload => ({
  ...(encoding === undefined ? {} : { metadata: { encoding: bytes(encoding) } }),
  data: bytes(data),
});

async function signalRaw(run: ScriptedRun, signalName: string, payloads: Payload[]): Promise<void> {
  const { client } = harness;
  await client.workflowService.signalWorkflowExecution({
    namespace: 'default',
    workflowExecution: { workflowId: run.handle.workflowId },
    signalName,
    requestId: randomUUID(),
    input: { payloads },
  });
}

async function signalByCli(run: ScriptedRun, name: string, ...args: string[]): Promise<void> {
  const env = { PATH: process.env.PATH, HOME: '/nonexistent', ...inject('temporalEnvironment') };
  await promisify(execFile)(inject('temporalProgram'), ['workflow', 'signal', '--workflow-id', run.handle.workflowId, '--name', name, ...args], { env });
}

/** Numbers of Temporal's causes with which the server itself gives a task again while signals pour in: unhandled command, too many buffered events. */
const SERVER_CAUSES = new Set([1, 17]);

/** Workflow tasks that our own code failed. */
async function failedTasks(run: ScriptedRun): Promise<number> {
  const history = await run.handle.fetchHistory();
  const causes = (history.events ?? []).flatMap((event) =>
    event.workflowTaskFailedEventAttributes ? [event.workflowTaskFailedEventAttributes.cause ?? 0] : [],
  );
  return causes.filter((cause) => !SERVER_CAUSES.has(cause)).length;
}

const POISON: [string, Payload[]][] = [
  ['no argument', []],
  ['null', [payload('json/plain', 'null')]],
  ['a number', [payload('json/plain', '42')]],
  ['text', [payload('json/plain', '"yes"')]],
  ['a list', [payload('json/plain', '[1,2]')]],
  ['bad JSON', [payload('json/plain', '{"pending_id":')]],
  ['no data', [{ metadata: { encoding: bytes('json/plain') } }]],
  ['no metadata', [payload(undefined, '{}')]],
  ['an unknown encoding', [payload('binary/encrypted', 'xxxx')]],
  ['an encoding that is no UTF-8', [{ metadata: { encoding: new Uint8Array([0xff, 0xfe]) }, data: bytes('x') }]],
  ['protobuf', [payload('binary/protobuf', 'xxxx')]],
  ['bytes', [payload('binary/plain', 'xxxx')]],
  ['nothing encoded', [payload('binary/null', '')]],
  ['a wrong pending_id', [payload('json/plain', '{"pending_id":"apr_other","token":"good"}')]],
  ['a pending_id that is no text', [payload('json/plain', '{"pending_id":{"toString":1},"token":"good"}')]],
  ['keys of objects', [payload('json/plain', '{"__proto__":{"pending_id":"apr_1_1","token":"good"},"constructor":1}')]],
  ['a hundred thousand brackets', [payload('json/plain', `${'['.repeat(100_000)}${']'.repeat(100_000)}`)]],
  ['many arguments', Array.from({ length: 50 }, () => payload('json/plain', '1'))],
];

describe('a waiting run', () => {
  test.each(['approval_granted', 'approval_denied', 'controls_changed', 'no_such_signal', '__temporal_made_up', '__stack_trace'])(
    'no payload of signal %s wedges it: it waits on, a good decision still counts',
    async (name) => {
      const run = await harness.start({ steps: one, call: gated() });
      await run.waiting();
      for (const [, payloads] of POISON) await signalRaw(run, name, payloads);
      expect((await run.waiting()).pending).toHaveLength(1);
      expect(run.asked('verifyDecisions')).toEqual([]);
      expect(run.asked<CallInput>('callTool').every((input) => input.tokens === undefined)).toBe(true);
      await run.grant('apr_1_1');
      expect((await run.result()).stop_reason).toBe('completed');
      expect(await failedTasks(run)).toBe(0);
    },
  );

  test('after all of them the deadline still fires', async () => {
    const run = await harness.start({ steps: one, call: gated(3_000) });
    await run.waiting();
    for (const name of ['approval_granted', 'approval_denied', '__temporal_made_up']) for (const [, payloads] of POISON) await signalRaw(run, name, payloads);
    expect((await run.result()).stop_reason).toBe('approval_timeout');
    expect(await failedTasks(run)).toBe(0);
    expect((await run.events()).filter((event) => event === 'timerStarted')).toHaveLength(1);
  });

  test('what the command line of Temporal sends does not wedge it', async () => {
    const run = await harness.start({ steps: one, call: gated() });
    await run.waiting();
    await signalByCli(run, 'approval_granted');
    await signalByCli(run, 'approval_denied', '--input', 'null');
    await signalByCli(run, 'approval_granted', '--input', '7');
    await signalByCli(run, 'approval_granted', '--input', 'x', '--input-meta', 'encoding=what/ever');
    expect((await run.waiting()).status).toBe('waiting');
    await run.grant('apr_1_1');
    expect((await run.result()).stop_reason).toBe('completed');
  });

  test('a query with arguments that cannot be read is answered', async () => {
    const run = await harness.start({ steps: one, call: gated() });
    await run.waiting();
    const answer = await harness.client.workflowService.queryWorkflow({
      namespace: 'default',
      execution: { workflowId: run.handle.workflowId },
      query: { queryType: 'state', queryArgs: { payloads: [payload('what/ever', 'x')] } },
    });
    expect(answer.queryResult?.payloads).toHaveLength(1);
    await run.handle.terminate();
  });

  test('mail that names the open request is verified, with a token that cannot be one as null', async () => {
    const run = await harness.start({ steps: one, call: gated() });
    await run.waiting();
    for (const token of [5, null, undefined, 'x'.repeat(LIMITS.token + 1), 'not a token!', '\u{1f600}']) {
      await run.handle.signal<unknown[]>('approval_denied', { pending_id: 'apr_1_1', token });
    }
    await eventually(
      () => (run.asked<VerifyInput>('verifyDecisions').flatMap((input) => input.messages).length === 6 ? true : undefined),
      'six messages are verified',
    );
    expect(run.asked<VerifyInput>('verifyDecisions').flatMap((input) => input.messages.map((message) => message.token))).toEqual([
      null,
      null,
      null,
      null,
      null,
      null,
    ]);
    expect((await run.waiting()).pending).toHaveLength(1);
    await run.handle.terminate();
  });

  test('a token that was judged before is not judged again', async () => {
    const run = await harness.start({ steps: one, call: gated() });
    await run.waiting();
    await run.deny('apr_1_1', 'made.up.token');
    await eventually(() => (run.asked('verifyDecisions').length === 1 ? true : undefined), 'it is verified');
    await run.waiting();
    await run.deny('apr_1_1', 'made.up.token');
    await run.grant('apr_1_1', 'bad.grant.token');
    await eventually(() => (run.asked('callTool').length === 2 ? true : undefined), 'the grant is tried');
    await run.waiting();
    await run.grant('apr_1_1', 'bad.grant.token');
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(run.asked('verifyDecisions')).toHaveLength(1);
    expect(run.asked('callTool')).toHaveLength(2);
    expect((await run.events()).filter((event) => event === 'timerStarted')).toHaveLength(1);
    await run.grant('apr_1_1');
    expect((await run.result()).stop_reason).toBe('completed');
  });

  test('a grant of the request that takes the place of a superseded one counts, also when it comes before the run knows its id', async () => {
    const run = await harness.start({
      steps: one,
      call: async (input, attempt) => {
        if (attempt === 1) return waiting(input, 'apr_old');
        if (attempt > 2) return executed();
        await run.grant('apr_new', 'good.new.token');
        return waiting(input, 'apr_new');
      },
    });
    await run.waiting();
    await run.grant('apr_old', 'good.old.token');
    expect((await run.result()).stop_reason).toBe('completed');
    expect(run.asked<CallInput>('callTool').at(-1)?.tokens).toEqual(['good.new.token']);
  });

  test('two thousand junk signals for its request are verified in batches, and a good decision after them counts', async () => {
    const run = await harness.start({
      steps: one,
      call: gated(),
      verify: (input) => input.open.map((id) => (input.messages.some((message) => message.token === 'good') ? approved(id) : open(id))),
    });
    await run.waiting();
    for (let sent = 0; sent < 2_000; sent += 100) await Promise.all(Array.from({ length: 100 }, (_, index) => run.deny('apr_1_1', `junk.${sent + index}`)));
    await run.grant('apr_1_1');
    expect((await run.result()).stop_reason).toBe('completed');
    expect(run.asked<VerifyInput>('verifyDecisions').every((input) => input.messages.length <= LIMITS.batch)).toBe(true);
    expect(await failedTasks(run)).toBe(0);
  });
});

describe('a run that somebody else starts', () => {
  test.each([[null], ['text'], [{ version: 1 }], [{ version: 1, run: { slots: [null] }, mail: [], judged: [] }]])(
    'a forged second argument %j is ignored',
    async (carried) => {
      const run = await harness.start({ steps: [], call: executed }, { carried });
      expect((await run.result()).stop_reason).toBe('completed');
      expect(run.asked('openRun')).toHaveLength(1);
    },
  );

  test('a planner with a hostile tool name does not wedge the run', async () => {
    const run = await harness.start({
      steps: [[call('\u{1f600}'.repeat(100)), call('\ud800 \u202e `x`\n\n# y')]],
      call: (input, attempt) => (attempt === 1 ? waiting(input, `apr_${input.call_id.at(-1)}`, 60_000, { preview: '<script>`'.repeat(5_000) }) : executed()),
    });
    expect((await run.waiting()).pending).toHaveLength(2);
    expect(await failedTasks(run)).toBe(0);
    await run.handle.terminate();
  });
});
