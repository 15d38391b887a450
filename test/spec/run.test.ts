import { beforeEach, describe, expect, test } from 'vitest';
import type { CallResult, PendingView, PlannedCall, RequestState, Stop } from '../../core/run-contract.ts';
import {
  applyCall,
  applyOpened,
  applyPlan,
  applyRequestState,
  isPendingView,
  newRun,
  nextMove,
  note,
  openSlots,
  requestsToClose,
  type Run,
  type Slot,
  viewOf,
} from '../../core/run.ts';

const NOW = 1_700_000_000_000;
const mail = (n = 1): PlannedCall => ({ tool: 'email.send', args: { n } });
const request = (over: Partial<PendingView> = {}): PendingView => ({
  pending_id: 'apr_1',
  call_id: '1.1',
  tool: 'email.send',
  preview: 'Send mail',
  reason: 'writes need approval',
  rule: 'r',
  tier: 'default',
  args_hash: 'sha256:1',
  quorum: 1,
  missing: 1,
  expires_at: '2026-01-01T00:00:00.000Z',
  remaining_ms: 60_000,
  ...over,
});
const executed: CallResult = { status: 'executed', args_hash: 'sha256:1', result: { status: 'ok', bytes: 2, sha256: 'sha256:2', head: '{}' } };
const invalid: CallResult = { status: 'invalid', code: 'unknown_tool', reason: 'no tool is called nope' };
const denied: Stop = { stop_reason: 'policy_denied', reason: 'on the blocklist', call_id: '1.1', tool: 'email.send' };

let run: Run;
beforeEach(() => {
  run = newRun('run_a');
});

/** The call that the run makes next. */
function nextCall(): { slot: Slot; mode: 'execute' | 'evaluate'; tokens?: string[] } {
  const move = nextMove(run);
  if (move.type !== 'call') throw new Error(`the run does not call but ${move.type}`);
  return move;
}
function answer(result: CallResult, now = NOW): void {
  const { slot, mode } = nextCall();
  applyCall(run, slot, mode, result, now);
}
const plan = (...calls: PlannedCall[]): void => applyPlan(run, { status: 'calls', calls });
const state = (over: RequestState, now = NOW, fired = false): void => applyRequestState(run, over, now, fired);
const approved: RequestState = { pending_id: 'apr_1', status: 'approved', tokens: ['a.b.c'] };

describe('a run', () => {
  test('begins by planning its first step', () => {
    expect(nextMove(run)).toEqual({ type: 'plan', step: 1 });
    expect(viewOf(run, false)).toMatchObject({ run_id: 'run_a', status: 'running', stop_reason: null, pending: [], calls: [] });
  });

  test('takes agent, goal and search attributes from the gateway, and only `true` as true', () => {
    applyOpened(run, { agent: 'support', goal: 'close tickets', registered: true, search_attributes: 'yes' as unknown as boolean });
    expect(run).toMatchObject({ agent: 'support', goal: 'close tickets', search_attributes: false });
  });

  test('numbers calls itself: step and place, both from 1', () => {
    plan(mail(1), mail(2));
    expect(run.slots.map(({ call_id }) => call_id)).toEqual(['1.1', '1.2']);
    answer(executed);
    answer(executed);
    plan(mail(3));
    expect(run.slots.map(({ call_id }) => call_id)).toEqual(['2.1']);
  });

  test('ends as completed with what the planner says', () => {
    applyPlan(run, { status: 'done', result: 'all closed' });
    expect(nextMove(run)).toEqual({ type: 'stop', stop: { stop_reason: 'completed', reason: 'all closed' } });
  });

  test.each([[[]], [null], ['calls']])('whose planner answers with %o instead of calls ends as planner_failed', (calls) => {
    applyPlan(run, { status: 'calls', calls: calls as PlannedCall[] });
    expect(run.stop).toMatchObject({ stop_reason: 'planner_failed' });
  });

  test('refuses an answer that it does not know', () => {
    expect(() => applyPlan(run, { status: 'else' } as never)).toThrow('unknown answer of planNextStep');
    plan(mail());
    expect(() => answer({ status: 'else' } as never)).toThrow('unknown answer of callTool');
  });
});

describe('calls of one step', () => {
  test('execute in order while none waits', () => {
    plan(mail(1), mail(2));
    expect(nextCall()).toMatchObject({ slot: { call_id: '1.1' }, mode: 'execute' });
    answer(executed);
    expect(nextCall()).toMatchObject({ slot: { call_id: '1.2' }, mode: 'execute' });
    answer(executed);
    expect(nextMove(run)).toEqual({ type: 'plan', step: 2 });
  });

  test('behind a waiting one are only evaluated, and have their effect when its turn has come', () => {
    plan(mail(1), mail(2));
    answer({ status: 'waiting', request: request() });
    expect(nextCall()).toMatchObject({ slot: { call_id: '1.2' }, mode: 'evaluate' });
    answer({ status: 'ready', args_hash: 'sha256:2' });
    expect(nextMove(run)).toEqual({ type: 'wait' });
    state(approved);
    expect(nextCall()).toMatchObject({ slot: { call_id: '1.1' }, mode: 'execute', tokens: ['a.b.c'] });
    answer(executed);
    expect(nextCall()).toMatchObject({ slot: { call_id: '1.2' }, mode: 'execute' });
  });

  test('keep their order when the later one is granted first', () => {
    plan(mail(1), mail(2));
    answer({ status: 'waiting', request: request() });
    answer({ status: 'waiting', request: request({ pending_id: 'apr_2', call_id: '1.2' }) });
    state({ ...approved, pending_id: 'apr_2' });
    expect(nextMove(run)).toEqual({ type: 'wait' });
    state(approved);
    expect(nextCall().slot.call_id).toBe('1.1');
  });

  test('close their open and unused requests when one of them stops the run', () => {
    plan(mail(1), mail(2), mail(3));
    answer({ status: 'waiting', request: request() });
    answer({ status: 'waiting', request: request({ pending_id: 'apr_2', call_id: '1.2' }) });
    state({ ...approved, pending_id: 'apr_2' });
    answer({ status: 'stopped', stop: { stop_reason: 'kill_switch', reason: 'engaged' } });
    expect(nextMove(run)).toMatchObject({ type: 'stop', stop: { stop_reason: 'kill_switch' } });
    expect(requestsToClose(run)).toEqual(['apr_1', 'apr_2']);
  });
});

describe('a refusal', () => {
  test('ends the run with its own reason', () => {
    plan(mail());
    answer({ status: 'refused', final: true, stop: denied });
    expect(nextMove(run)).toEqual({ type: 'stop', stop: denied });
  });

  test('that is not final goes back to the planner', () => {
    plan(mail());
    answer({ status: 'refused', final: false, stop: denied });
    expect(nextMove(run)).toEqual({ type: 'plan', step: 2 });
    expect(run.calls).toEqual([{ call_id: '1.1', tool: 'email.send', status: 'refused', reason: 'on the blocklist' }]);
  });

  test('that does not say whether it is final is final', () => {
    plan(mail());
    answer({ status: 'refused', stop: denied } as unknown as CallResult);
    expect(run.stop).toEqual(denied);
  });
});

describe('calls that cannot be used', () => {
  test('go back to the planner twice and end the run the third time', () => {
    for (const step of [1, 2]) {
      plan(mail());
      answer(invalid);
      expect(nextMove(run)).toEqual({ type: 'plan', step: step + 1 });
    }
    plan(mail());
    answer(invalid);
    expect(run.stop).toMatchObject({
      stop_reason: 'planner_failed',
      reason: expect.stringContaining('unknown_tool: no tool is called nope') as string,
      call_id: '3.1',
    });
  });

  test('are forgiven by one that can', () => {
    for (const result of [invalid, invalid, executed, invalid, invalid]) {
      plan(mail());
      answer(result);
    }
    expect(run.stop).toBeNull();
  });
});

describe('a waiting request', () => {
  beforeEach(() => {
    plan(mail());
    answer({ status: 'waiting', request: request() });
  });

  test('is what the run shows: it waits, and stop_reason says so', () => {
    expect(viewOf(run, false)).toMatchObject({ status: 'waiting', stop_reason: 'approval_required', pending: [{ pending_id: 'apr_1' }] });
  });

  test('has its deadline by the time that the ledger says is left, whatever the clock', () => {
    expect(openSlots(run)[0]?.standing.deadline).toBe(NOW + 60_000);
  });

  test('keeps its deadline when news of votes comes, and gets a new one when its timer fired too early', () => {
    state({ pending_id: 'apr_1', status: 'open', missing: 1, quorum: 2, remaining_ms: 30_000 }, NOW + 10);
    expect(openSlots(run)[0]?.standing).toMatchObject({ deadline: NOW + 60_000, request: { quorum: 2 } });
    state({ pending_id: 'apr_1', status: 'open', missing: 1, quorum: 2, remaining_ms: 5_000 }, NOW + 60_000, true);
    expect(openSlots(run)[0]?.standing.deadline).toBe(NOW + 65_000);
  });

  test('never re-arms its timer at once, so that two clocks at odds cannot spin', () => {
    state({ pending_id: 'apr_1', status: 'open', missing: 1, quorum: 1, remaining_ms: -50 }, NOW, true);
    expect(openSlots(run)[0]?.standing.deadline).toBeGreaterThan(NOW);
  });

  test('that is told again keeps its deadline, unless the ledger moved it', () => {
    const told = (remaining: number, now: number): void =>
      applyCall(run, run.slots[0]!, 'evaluate', { status: 'waiting', request: request({ remaining_ms: remaining }) }, now);
    told(59_400, NOW + 700);
    expect(openSlots(run)[0]?.standing.deadline).toBe(NOW + 60_000);
    told(30_000, NOW + 1_000);
    expect(openSlots(run)[0]?.standing.deadline).toBe(NOW + 31_000);
  });

  test('that was superseded is evaluated anew', () => {
    state({ pending_id: 'apr_1', status: 'superseded' });
    expect(nextCall()).toMatchObject({ slot: { call_id: '1.1' }, mode: 'execute' });
    expect(nextCall().tokens).toBeUndefined();
  });

  test('is not touched by news of another', () => {
    const before = structuredClone(run);
    state({ ...approved, pending_id: 'apr_other' });
    expect(run).toEqual(before);
  });

  test('is not granted after the run has a stop', () => {
    run.stop = { stop_reason: 'cancelled', reason: 'cancelled' };
    state(approved);
    expect(openSlots(run)).toHaveLength(1);
    expect(nextMove(run).type).toBe('stop');
  });

  test('that cannot be read is an error and not a wait without end', () => {
    const other = newRun('run_b');
    applyPlan(other, { status: 'calls', calls: [mail()] });
    const move = nextMove(other);
    if (move.type !== 'call') throw new Error('no call');
    const broken = { status: 'waiting', request: { ...request(), remaining_ms: Number.NaN } } as CallResult;
    expect(() => applyCall(other, move.slot, 'execute', broken, NOW)).toThrow('cannot be read');
  });
});

describe('what a run shows', () => {
  test('are its last 20 calls, each once', () => {
    for (let step = 1; step <= 25; step++) {
      plan(mail(step));
      answer(executed);
    }
    expect(run.calls).toHaveLength(20);
    expect(run.calls.map(({ call_id }) => call_id)).toEqual(Array.from({ length: 20 }, (_, index) => `${index + 6}.1`));
  });

  test('counts its steps and the calls that had an effect', () => {
    for (const result of [executed, invalid, executed]) {
      plan(mail());
      answer(result);
    }
    expect(viewOf(run, false).usage).toMatchObject({ steps: 3, tool_calls: 2 });
  });

  test('is cut where words are long', () => {
    plan(mail());
    const { slot } = nextCall();
    note(run, slot, { status: 'refused', reason: 'x'.repeat(10_000) });
    expect(run.calls[0]?.reason).toHaveLength(500);
  });

  test('holds no arguments of calls that are done', () => {
    plan({ tool: 'email.send', args: { secret: 'in the ledger' } });
    answer(executed);
    expect(JSON.stringify(run)).not.toContain('in the ledger');
  });

  test('after the end is the stop and nothing pending', () => {
    plan(mail());
    answer({ status: 'waiting', request: request() });
    run.stop = { stop_reason: 'approval_timeout', reason: 'nobody answered' };
    expect(viewOf(run, true)).toMatchObject({ status: 'stopped', stop_reason: 'approval_timeout', reason: 'nobody answered', pending: [] });
  });

  test.each([
    [null],
    [undefined],
    ['request'],
    [{}],
    [[]],
    [{ ...request(), quorum: '1' }],
    [{ ...request(), remaining_ms: Number.POSITIVE_INFINITY }],
    [{ ...request(), preview: 1 }],
  ])('%o is no request', (value) => {
    expect(isPendingView(value)).toBe(false);
    expect(isPendingView(request())).toBe(true);
  });
});
