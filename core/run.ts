/**
 * One run as plain data: what the planner asked for, where each call stands, what comes next. No clock and no effect;
 * the workflow asks `nextMove`, does it, and feeds the answer back with one of the `apply…` functions.
 */
import { assertNever, HoldpointError } from './errors.ts';
import type { CallResult, CallSummary, OpenRunResult, PendingView, PlannedCall, PlanResult, RequestState, RunState, Stop, Usage } from './run-contract.ts';

/** Where one call of the step stands. Times are milliseconds since the epoch by the workflow's clock. */
export type Standing =
  | { at: 'new' }
  /** Allowed behind a waiting call: executes when its turn comes. */
  | { at: 'ready' }
  | { at: 'waiting'; request: PendingView; deadline: number }
  | { at: 'granted'; request: PendingView; tokens: string[] }
  | { at: 'done' };

export interface Slot {
  call_id: string;
  call: PlannedCall;
  standing: Standing;
}
export type WaitingSlot = Slot & { standing: Extract<Standing, { at: 'waiting' }> };

export interface Run {
  run_id: string;
  agent: string;
  goal: string;
  search_attributes: boolean;
  step: number;
  slots: Slot[];
  invalid_in_a_row: number;
  /** The last 20, oldest first. */
  calls: CallSummary[];
  usage: Usage;
  /** Set once; nothing follows but closing. */
  stop: Stop | null;
  /** True: the ledger has the stop already. */
  recorded?: boolean;
}

export type Move =
  | { type: 'stop'; stop: Stop }
  | { type: 'plan'; step: number }
  | { type: 'call'; slot: Slot; mode: 'execute' | 'evaluate'; tokens?: string[] }
  | { type: 'wait' };

const CALLS_SHOWN = 20;
const WORDS_SHOWN = 500;
const INVALID_LIMIT = 3;
/** A deadline that the ledger tells again differs by the time its answer took; less than this is no change. */
const DEADLINE_JITTER_MS = 1_000;

export function newRun(runId: string): Run {
  return {
    run_id: runId,
    agent: '',
    goal: '',
    search_attributes: false,
    step: 0,
    slots: [],
    invalid_in_a_row: 0,
    calls: [],
    usage: { steps: 0, tool_calls: 0, active_seconds: 0, usd: 0 },
    stop: null,
  };
}

export function applyOpened(run: Run, opened: OpenRunResult): void {
  run.agent = String(opened.agent);
  run.goal = String(opened.goal);
  run.search_attributes = opened.search_attributes === true;
}

/** What the run does next. Calls are evaluated in order, then their effects follow in order, one at a time. */
export function nextMove(run: Run): Move {
  if (run.stop) return { type: 'stop', stop: run.stop };
  const first = run.slots.find((slot) => slot.standing.at !== 'done');
  if (!first) return { type: 'plan', step: run.step + 1 };
  const fresh = run.slots.find((slot) => slot.standing.at === 'new');
  if (fresh) return { type: 'call', slot: fresh, mode: fresh === first ? 'execute' : 'evaluate' };
  switch (first.standing.at) {
    case 'ready':
      return { type: 'call', slot: first, mode: 'execute' };
    case 'granted':
      return { type: 'call', slot: first, mode: 'execute', tokens: first.standing.tokens };
    case 'waiting':
      return { type: 'wait' };
    default:
      throw new HoldpointError('internal', `call ${first.call_id} has no next move`);
  }
}

export function applyPlan(run: Run, plan: PlanResult): void {
  switch (plan.status) {
    case 'calls':
      return beginStep(run, plan.calls);
    case 'done':
      run.stop = completedStop(plan.result);
      if (!plan.usage) return;
      run.usage = plan.usage;
      run.recorded = true;
      return;
    case 'stopped':
      run.stop = plan.stop;
      return;
    default:
      return assertNever(plan, 'answer of planNextStep');
  }
}

export function completedStop(result?: string): Stop {
  return { stop_reason: 'completed', reason: result ?? 'the planner ended the run' };
}

function beginStep(run: Run, calls: readonly PlannedCall[]): void {
  run.step += 1;
  run.usage.steps += 1;
  if (!Array.isArray(calls) || calls.length === 0) {
    run.stop = { stop_reason: 'planner_failed', reason: `the planner answered step ${run.step} with no call` };
    return;
  }
  run.slots = calls.map((call, index) => ({ call_id: `${run.step}.${index + 1}`, call, standing: { at: 'new' } }));
}

/** Takes in the gateway's answer to one call. `now` is the workflow's time when it came. */
export function applyCall(run: Run, slot: Slot, mode: 'execute' | 'evaluate', answer: CallResult, now: number): void {
  if (answer.status !== 'invalid') run.invalid_in_a_row = 0;
  switch (answer.status) {
    case 'executed':
      run.usage.tool_calls += 1;
      return settle(run, slot, { status: 'executed', result: answer.result.status });
    case 'ready':
      if (mode === 'execute') throw new HoldpointError('internal', `the gateway did not execute call ${slot.call_id}`);
      slot.standing = { at: 'ready' };
      return note(run, slot, { status: 'ready' });
    case 'waiting':
      slot.standing = waitFor(slot, answer.request, now);
      return note(run, slot, { status: 'waiting', reason: answer.request.reason });
    case 'invalid':
      settle(run, slot, { status: 'invalid', reason: answer.reason });
      return countInvalid(run, slot, answer);
    case 'refused':
      return applyRefusal(run, slot, answer);
    case 'stopped':
      settle(run, slot, { status: 'stopped', reason: answer.stop.reason });
      run.stop = answer.stop;
      return;
    default:
      return assertNever(answer, 'answer of callTool');
  }
}

function waitFor(slot: Slot, request: PendingView, now: number): Standing {
  if (!isPendingView(request)) throw new HoldpointError('internal', `the gateway answered call ${slot.call_id} with a request that cannot be read`);
  const deadline = now + Math.max(0, request.remaining_ms);
  const before = slot.standing;
  const same = before.at === 'waiting' && before.request.pending_id === request.pending_id && Math.abs(before.deadline - deadline) < DEADLINE_JITTER_MS;
  return { at: 'waiting', request: { ...request, preview: clip(request.preview), reason: clip(request.reason) }, deadline: same ? before.deadline : deadline };
}

function countInvalid(run: Run, slot: Slot, answer: { code: string; reason: string }): void {
  run.invalid_in_a_row += 1;
  if (run.invalid_in_a_row < INVALID_LIMIT) return;
  const reason = `${INVALID_LIMIT} calls in a row could not be used; the last: ${answer.code}: ${answer.reason}`;
  run.stop = { stop_reason: 'planner_failed', reason: clip(reason), call_id: slot.call_id, tool: slot.call.tool };
}

function applyRefusal(run: Run, slot: Slot, refusal: { final: boolean; stop: Stop }): void {
  settle(run, slot, { status: 'refused', reason: refusal.stop.reason });
  if (refusal.final !== false) run.stop = refusal.stop;
}

/** Takes in where a request stands by the ledger. `fired`: this answers a timer, so an open request gets a new deadline. */
export function applyRequestState(run: Run, state: RequestState, now: number, fired: boolean): void {
  const waiting = openSlots(run).find((open) => open.standing.request.pending_id === state.pending_id);
  if (!waiting || run.stop) return;
  const slot: Slot = waiting;
  const { request, deadline } = waiting.standing;
  switch (state.status) {
    case 'open':
      slot.standing = {
        at: 'waiting',
        request: { ...request, missing: state.missing, quorum: state.quorum },
        deadline: fired ? now + Math.max(MIN_REARM_MS, state.remaining_ms) : deadline,
      };
      return;
    case 'approved':
      slot.standing = { at: 'granted', request, tokens: state.tokens };
      return note(run, slot, { status: 'ready', reason: 'approved' });
    case 'refused':
      return applyRefusal(run, slot, state);
    case 'superseded':
      slot.standing = { at: 'new' };
      return;
    default:
      return assertNever(state, 'state of a request');
  }
}

/** An early timer waits at least this long, so that two clocks at odds cannot spin. */
const MIN_REARM_MS = 100;

function settle(run: Run, slot: Slot, summary: Omit<CallSummary, 'call_id' | 'tool'>): void {
  slot.standing = { at: 'done' };
  // Arguments of a settled call are in the ledger; here they would only be carried along.
  slot.call = { tool: slot.call.tool, args: null };
  note(run, slot, summary);
}

/** Puts a call's line into the summaries, in place when it has one. */
export function note(run: Run, slot: Slot, summary: Omit<CallSummary, 'call_id' | 'tool'>): void {
  const line: CallSummary = { call_id: slot.call_id, tool: slot.call.tool, ...summary };
  if (line.reason !== undefined) line.reason = clip(line.reason);
  const index = run.calls.findIndex((other) => other.call_id === slot.call_id);
  if (index >= 0) run.calls[index] = line;
  else run.calls = [...run.calls, line].slice(-CALLS_SHOWN);
}

/** The calls that wait for people, in call order. */
export function openSlots(run: Run): WaitingSlot[] {
  return run.slots.filter((slot): slot is WaitingSlot => slot.standing.at === 'waiting');
}

/** Requests to close when the run ends: undecided ones, and granted ones that were not used. */
export function requestsToClose(run: Run): string[] {
  return run.slots.flatMap(({ standing }) => (standing.at === 'waiting' || standing.at === 'granted' ? [standing.request.pending_id] : []));
}

/** The answer to the query `state`. */
export function viewOf(run: Run, stopped: boolean): RunState {
  const pending = stopped ? [] : openSlots(run).map((slot) => slot.standing.request);
  const base = { run_id: run.run_id, pending, calls: run.calls, usage: run.usage };
  if (stopped && run.stop) return { ...base, status: 'stopped', stop_reason: run.stop.stop_reason, reason: run.stop.reason };
  if (nextMove(run).type === 'wait') return { ...base, status: 'waiting', stop_reason: 'approval_required' };
  return { ...base, status: 'running', stop_reason: null };
}

export function isPendingView(value: unknown): value is PendingView {
  if (typeof value !== 'object' || value === null) return false;
  const view = value as Record<string, unknown>;
  const words = ['pending_id', 'call_id', 'tool', 'preview', 'reason', 'expires_at'].every((key) => typeof view[key] === 'string');
  return words && ['quorum', 'missing', 'remaining_ms'].every((key) => Number.isFinite(view[key]));
}

function clip(text: string): string {
  return text.length > WORDS_SHOWN ? `${text.slice(0, WORDS_SHOWN - 1)}…` : text;
}
