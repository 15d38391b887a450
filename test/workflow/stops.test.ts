import { ApplicationFailure } from '@temporalio/common';
import { WorkflowFailedError } from '@temporalio/client';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CallInput, CloseRequestInput, CloseRunInput, PlanResult } from '../../core/run-contract.ts';
import { eventually } from '../support/index.ts';
import {
  approved,
  call,
  executed,
  gated,
  invalid,
  open,
  pendingOf,
  ready,
  refused,
  refusedState,
  startHarness,
  stopOf,
  stopped,
  waiting,
  type Harness,
} from './harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.stop());

const USAGE = { steps: 2, tool_calls: 1, active_seconds: 1.5, usd: 0.25 };
const one = [[call('email.send', { to: 'a' })]];
const statusOf = async (run: { handle: { describe(): Promise<{ status: { name: string } }> } }) => (await run.handle.describe()).status.name;

describe('an approval', () => {
  test('a waiting run says what it waits for, and executes once when granted', async () => {
    const run = await harness.start({ steps: one, call: gated() });
    const state = await run.waiting();
    expect(state).toMatchObject({
      status: 'waiting',
      stop_reason: 'approval_required',
      pending: [{ pending_id: 'apr_1_1', tool: 'email.send' }],
      calls: [{ call_id: '1.1', status: 'waiting' }],
    });
    await run.grant('apr_1_1');
    expect(await run.result()).toMatchObject({ stop_reason: 'completed', status: 'stopped', run_id: run.handle.workflowId, usage: { active_seconds: 0.5 } });
    expect(run.notes.map((note) => note.verb)).toEqual(['openRun', 'planNextStep', 'callTool', 'callTool', 'planNextStep', 'closeRun']);
    expect(run.asked<CallInput>('callTool')[1]).toMatchObject({ call_id: '1.1', mode: 'execute', tokens: ['good'], tool: 'email.send', args: { to: 'a' } });
    expect(await run.state()).toMatchObject({ status: 'stopped', stop_reason: 'completed', pending: [] });
  });

  test('a verified denial stops the run as approval_denied and executes nothing', async () => {
    const run = await harness.start({ steps: one, call: gated(), verify: () => [refusedState('apr_1_1', 'approval_denied')] });
    await run.waiting();
    await run.deny('apr_1_1');
    expect((await run.result()).stop_reason).toBe('approval_denied');
    expect(run.asked('callTool')).toHaveLength(1);
    expect(await statusOf(run)).toBe('COMPLETED');
  });

  test('silence ends the wait at the deadline as approval_timeout', async () => {
    const run = await harness.start({ steps: one, call: gated(800) });
    const began = Date.now();
    expect((await run.result()).stop_reason).toBe('approval_timeout');
    expect(Date.now() - began).toBeGreaterThanOrEqual(800);
    expect(run.asked('closeRequest')).toEqual([expect.objectContaining({ pending_id: 'apr_1_1', why: 'deadline' })]);
  });

  test('a timer that the ledger calls early is set again for the remaining time', async () => {
    let asked = 0;
    const run = await harness.start({
      steps: one,
      call: gated(300),
      close: (input) => (++asked === 1 ? open(input.pending_id, 700) : refusedState(input.pending_id, 'approval_timeout')),
    });
    expect((await run.result()).stop_reason).toBe('approval_timeout');
    expect((await run.events()).filter((name) => name === 'timerStarted')).toHaveLength(2);
  });

  test('a deadline at which the ledger holds a full quorum executes the call', async () => {
    const run = await harness.start({ steps: one, call: gated(300), close: (input) => approved(input.pending_id) });
    expect((await run.result()).stop_reason).toBe('completed');
    expect(run.asked<CallInput>('callTool').map((input) => input.tokens)).toEqual([undefined, ['good']]);
  });

  test('a superseded request is evaluated anew without tokens', async () => {
    const run = await harness.start({
      steps: one,
      call: (input, attempt) => (input.tokens ? executed() : waiting(input, `apr_${attempt}`, 60_000)),
      verify: (input) => [{ pending_id: input.open[0] ?? '', status: 'superseded' }],
    });
    await run.waiting();
    await run.deny('apr_1');
    await eventually(async () => ((await run.state()).pending[0]?.pending_id === 'apr_2' ? true : undefined), 'the second request');
    await run.grant('apr_2');
    expect((await run.result()).stop_reason).toBe('completed');
    expect(run.asked<CallInput>('callTool').map((input) => [input.mode, input.tokens])).toEqual([
      ['execute', undefined],
      ['execute', undefined],
      ['execute', ['good']],
    ]);
  });

  test('a quorum above one is judged by verifyDecisions and executes with the tokens of the ledger', async () => {
    let votes = 0;
    const run = await harness.start({
      steps: one,
      call: (input) => (input.tokens ? executed() : waiting(input, 'apr_q', 60_000, { quorum: 2, missing: 2 })),
      verify: () =>
        ++votes < 2
          ? [{ pending_id: 'apr_q', status: 'open', missing: 1, quorum: 2, remaining_ms: 60_000 }]
          : [{ pending_id: 'apr_q', status: 'approved', tokens: ['t1', 't2'] }],
    });
    await run.waiting();
    await run.grant('apr_q', 't1');
    await eventually(async () => ((await run.state()).pending[0]?.missing === 1 ? true : undefined), 'one vote is missing');
    await run.grant('apr_q', 't2');
    expect((await run.result()).stop_reason).toBe('completed');
    expect(run.asked<CallInput>('callTool').at(-1)?.tokens).toEqual(['t1', 't2']);
  });

  test('a decision that comes while its request is being made counts once the request is open', async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const run = await harness.start({
      steps: one,
      call: async (input) => {
        if (input.tokens) return executed();
        await held;
        return waiting(input, 'apr_1_1');
      },
    });
    await eventually(() => (run.asked('callTool').length === 1 ? true : undefined), 'the call is in flight');
    await run.grant('apr_1_1');
    release();
    expect((await run.result()).stop_reason).toBe('completed');
  });

  test('a change of the kill switch reaches a waiting run', async () => {
    let engaged = false;
    const run = await harness.start({ steps: one, call: (input) => (engaged ? stopped('kill_switch') : waiting(input, 'apr_1_1')) });
    await run.waiting();
    await run.handle.signal('controls_changed');
    await eventually(() => (run.asked('callTool').length === 2 ? true : undefined), 'the gateway is asked again');
    expect((await run.waiting()).pending).toHaveLength(1);
    engaged = true;
    await run.handle.signal('controls_changed');
    expect((await run.result()).stop_reason).toBe('kill_switch');
    expect(run.asked<CallInput>('callTool')[1]).toMatchObject({ mode: 'evaluate' });
  });
});

describe('stops', () => {
  test.each(['policy_denied', 'budget_exceeded', 'kill_switch', 'approval_expired_unused', 'outcome_unknown', 'tool_failed'] as const)(
    'the gateway stops a run as %s',
    async (reason) => {
      const run = await harness.start({ steps: one, call: () => (reason === 'policy_denied' ? refused(true, reason) : stopped(reason)) });
      expect(await run.result()).toMatchObject({ stop_reason: reason, reason: `it was ${reason}` });
      expect(run.asked<CloseRunInput>('closeRun')[0]?.stop.stop_reason).toBe(reason);
      expect(await statusOf(run)).toBe('COMPLETED');
    },
  );

  test('a planner that is stopped by its budget stops the run', async () => {
    const run = await harness.start({ plan: () => ({ status: 'stopped', stop: { ...stopOf('budget_exceeded'), budget: 'max_steps' } }), call: executed });
    expect(await run.result()).toMatchObject({ stop_reason: 'budget_exceeded', budget: 'max_steps' });
  });

  test('a planner failure stops the run as planner_failed, any other failure is retried', async () => {
    let attempts = 0;
    const run = await harness.start({
      plan: () => {
        attempts += 1;
        throw attempts < 4 ? new Error('the database is away') : ApplicationFailure.nonRetryable('the model answers nonsense', 'planner_failed');
      },
      call: executed,
    });
    expect(await run.result()).toMatchObject({ stop_reason: 'planner_failed', reason: 'the model answers nonsense' });
    expect(attempts).toBe(4);
  });

  test('three calls in a row that are no calls stop the run as planner_failed, a valid one between starts the count anew', async () => {
    const steps = [[call('a')], [call('b')], [call('ok')], [call('c')], [call('d'), call('e')]];
    const run = await harness.start({ steps, call: (input) => (input.tool === 'ok' ? executed() : invalid()) });
    expect((await run.result()).stop_reason).toBe('planner_failed');
    expect(run.asked<CallInput>('callTool').map((input) => input.tool)).toEqual(['a', 'b', 'ok', 'c', 'd', 'e']);
  });

  test('an empty step stops the run as planner_failed', async () => {
    const run = await harness.start({ plan: () => ({ status: 'calls', calls: [] }), call: executed });
    expect((await run.result()).stop_reason).toBe('planner_failed');
  });

  test('a refusal that is not final goes back to the planner', async () => {
    const run = await harness.start({ steps: [[call('a')], [call('b')]], call: (input) => (input.tool === 'a' ? refused(false) : executed()) });
    expect((await run.result()).stop_reason).toBe('completed');
    expect((await run.state()).calls.map((line) => line.status)).toEqual(['refused', 'executed']);
  });

  test('input that the gateway cannot read fails the workflow as invalid_run', async () => {
    const run = await harness.start({
      open: () => {
        throw ApplicationFailure.nonRetryable('planner is missing', 'invalid_run');
      },
      call: executed,
    });
    const error = await run.handle.result().catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(WorkflowFailedError);
    expect((error as WorkflowFailedError).cause).toMatchObject({ type: 'invalid_run', message: 'planner is missing' });
  });

  test('input over the limit fails the workflow as invalid_run instead of wedging it', async () => {
    const run = await harness.start({ call: executed }, { input: 'x'.repeat(1_100_000) });
    const error = await run.handle.result().catch((thrown: unknown) => thrown);
    expect((error as WorkflowFailedError).cause).toMatchObject({ type: 'invalid_run' });
    expect(run.notes).toEqual([]);
  });

  test('a gateway that fails for good leaves an unknown outcome', async () => {
    const run = await harness.start({
      steps: one,
      call: () => {
        throw ApplicationFailure.nonRetryable('broken', 'internal');
      },
    });
    expect((await run.result()).stop_reason).toBe('outcome_unknown');
  });
});

describe('several calls in a step', () => {
  const three = [[call('a'), call('b'), call('c')]];

  test('effects follow in call order when an earlier call waits', async () => {
    const run = await harness.start({
      steps: three,
      call: (input) => {
        if (input.tool === 'b' && !input.tokens) return waiting(input, 'apr_b');
        return input.mode === 'evaluate' ? ready() : executed();
      },
    });
    expect((await run.waiting()).calls.map((line) => line.status)).toEqual(['executed', 'waiting', 'ready']);
    await run.grant('apr_b');
    expect((await run.result()).stop_reason).toBe('completed');
    expect(run.asked<CallInput>('callTool').map((input) => `${input.tool} ${input.mode} ${input.tokens ?? ''}`)).toEqual([
      'a execute ',
      'b execute ',
      'c evaluate ',
      'b execute good',
      'c execute ',
    ]);
  });

  test('a later sibling that is granted first waits for the earlier one', async () => {
    const run = await harness.start({
      steps: [[call('a'), call('b')]],
      call: gated(),
      verify: (input) => input.open.map((id) => (id === 'apr_1_2' ? approved(id) : open(id))),
    });
    await run.waiting();
    await run.grant('apr_1_2');
    await eventually(async () => ((await run.state()).calls[1]?.status === 'ready' ? true : undefined), 'the second call is granted');
    expect(run.asked('callTool')).toHaveLength(2);
    await run.grant('apr_1_1');
    expect((await run.result()).stop_reason).toBe('completed');
    expect(
      run
        .asked<CallInput>('callTool')
        .slice(2)
        .map((input) => input.call_id),
    ).toEqual(['1.1', '1.2']);
  });

  test('a final refusal of a later sibling closes the earlier request and stops the run', async () => {
    const run = await harness.start({ steps: [[call('a'), call('b')]], call: (input) => (input.tool === 'a' ? waiting(input, 'apr_a') : refused(true)) });
    expect((await run.result()).stop_reason).toBe('policy_denied');
    expect(run.asked('closeRequest')).toEqual([
      expect.objectContaining({ pending_id: 'apr_a', why: 'cancelled', detail: 'policy_denied: it was policy_denied' }),
    ]);
  });

  test('a denied sibling closes all open requests and nothing executes', async () => {
    const run = await harness.start({
      steps: three,
      call: gated(),
      verify: (input) => input.open.map((id) => (id === 'apr_1_2' ? refusedState(id, 'approval_denied') : open(id))),
    });
    await run.waiting();
    await run.deny('apr_1_2');
    expect((await run.result()).stop_reason).toBe('approval_denied');
    expect(
      run
        .asked<CloseRequestInput>('closeRequest')
        .map((input) => input.pending_id)
        .sort(),
    ).toEqual(['apr_1_1', 'apr_1_3']);
    expect(run.asked<CallInput>('callTool').every((input) => input.tokens === undefined)).toBe(true);
  });

  test('the nearest deadline of several requests fires first', async () => {
    const run = await harness.start({
      steps: [[call('a'), call('b')]],
      call: (input) => (input.tokens ? executed() : waiting(input, pendingOf(input.call_id), input.tool === 'a' ? 60_000 : 700)),
      close: (input) => refusedState(input.pending_id, 'approval_timeout', input.why === 'deadline'),
    });
    expect((await run.result()).stop_reason).toBe('approval_timeout');
    expect(run.asked<CloseRequestInput>('closeRequest').map((input) => [input.pending_id, input.why])).toEqual([
      ['apr_1_2', 'deadline'],
      ['apr_1_1', 'cancelled'],
    ]);
  });
});

describe('cancellation', () => {
  test('a waiting run that is cancelled closes its requests and closes as Canceled', async () => {
    const run = await harness.start({ steps: [[call('a'), call('b')]], call: gated() });
    await run.waiting();
    const began = Date.now();
    await run.handle.cancel();
    await run.handle.result().catch(() => {});
    expect(Date.now() - began).toBeLessThan(5_000);
    expect(await statusOf(run)).toBe('CANCELLED');
    expect(run.asked<CloseRequestInput>('closeRequest').map((input) => input.detail)).toEqual(['cancelled', 'cancelled']);
    expect(run.asked<CloseRunInput>('closeRun').map((input) => input.stop.stop_reason)).toEqual(['cancelled']);
    expect(await run.state()).toMatchObject({ status: 'stopped', stop_reason: 'cancelled' });
  });

  test('a call that executes is finished and recorded before the run is cancelled', async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const run = await harness.start({
      steps: one,
      call: async () => {
        await held;
        return executed();
      },
    });
    await eventually(() => (run.asked('callTool').length === 1 ? true : undefined), 'the call executes');
    await run.handle.cancel();
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(run.asked('closeRun')).toHaveLength(0);
    release();
    await run.handle.result().catch(() => {});
    expect(await statusOf(run)).toBe('CANCELLED');
    expect((await run.state()).calls).toMatchObject([{ call_id: '1.1', status: 'executed' }]);
    expect(run.asked('callTool')).toHaveLength(1);
  });

  test('a cancelled run does not wait for its planner', async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const run = await harness.start({
      plan: async () => {
        await held;
        return { status: 'done' };
      },
      call: executed,
    });
    await eventually(() => (run.asked('planNextStep').length === 1 ? true : undefined), 'the planner works');
    await run.handle.cancel();
    await run.handle.result().catch(() => {});
    expect(await statusOf(run)).toBe('CANCELLED');
    expect(run.asked('closeRun')).toHaveLength(1);
    release();
  });

  test('a run that was done before the cancellation came ends as the ledger has it', async () => {
    let release = (): void => {};
    const held = new Promise<void>((resolve) => {
      release = resolve;
    });
    const run = await harness.start({
      plan: async () => {
        await held;
        return { status: 'done' };
      },
      call: executed,
      closeRun: () => ({ usage: USAGE, ended: { stop_reason: 'completed', reason: 'all done' } }),
      searchAttributes: true,
    });
    await eventually(() => (run.asked('planNextStep').length === 1 ? true : undefined), 'the planner works');
    await run.handle.cancel();
    expect(await run.result()).toMatchObject({ stop_reason: 'completed', reason: 'all done', usage: USAGE });
    expect(await statusOf(run)).toBe('COMPLETED');
    expect(await run.state()).toMatchObject({ status: 'stopped', stop_reason: 'completed' });
    await eventually(async () => {
      const { HoldpointStopReason: shown } = (await run.handle.describe()).searchAttributes as Record<string, unknown[]>;
      return shown?.[0] === 'completed' ? true : undefined;
    }, 'the search attribute says so, too');
    release();
  });
});

describe('the end', () => {
  test('a run whose end came into the ledger with its last plan closes without a further activity', async () => {
    const plan = (step: number): PlanResult => (step === 1 ? { status: 'calls', calls: [call('a')] } : { status: 'done', result: 'all done', usage: USAGE });
    const run = await harness.start({ plan, call: executed });
    expect(await run.result()).toMatchObject({ status: 'stopped', stop_reason: 'completed', reason: 'all done', usage: USAGE });
    expect(run.notes.map((note) => note.verb)).toEqual(['openRun', 'planNextStep', 'callTool', 'planNextStep']);
    expect(await run.state()).toMatchObject({ status: 'stopped', stop_reason: 'completed', usage: USAGE });
  });
});
