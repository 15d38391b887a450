/**
 * One agent run. It holds what has to survive, and decides nothing that matters: tools, policy, tokens and the ledger
 * are behind the gateway, which believes only its own rows.
 */
import {
  ActivityFailure,
  ApplicationFailure,
  CancellationScope,
  CancelledFailure,
  isCancellation,
  makeContinueAsNewFunc,
  setHandler,
  workflowInfo,
} from '@temporalio/workflow';
import { carryRun, readCarried } from '../core/carry.ts';
import { assertNever, isHoldpointError } from '../core/errors.ts';
import { createMailbox } from '../core/mail.ts';
import type { OpenRunResult, PlanResult, RunResult, Stop } from '../core/run-contract.ts';
import { applyCall, applyOpened, applyPlan, newRun, nextMove, note, type Move, type Run, requestsToClose, viewOf } from '../core/run.ts';
import { LIMITS } from '../core/words.ts';
import { callOf, createApprovalGate, type News } from './approval-gate.ts';
import { approvalDenied, approvalGranted, controlsChanged, stateQuery } from './messages.ts';
import { createSignboard, type Signboard } from './visibility.ts';
import * as verbs from './verbs.ts';

/**
 * @param input the run file; not read here, the gateway does
 * @param carried what the execution before this one left; set by the workflow itself
 */
export async function agentRun(input: unknown, carried?: unknown): Promise<RunResult> {
  const session = createSession();
  listen(session);
  try {
    return await goOn(session, input, carried);
  } catch (error) {
    // A bug in our own rules ends this run with its reason; an unknown error would be retried by Temporal for ever.
    if (isHoldpointError(error)) throw ApplicationFailure.nonRetryable(error.message, error.code);
    throw error;
  }
}

interface Session {
  ref: { first_execution_id: string };
  run: Run;
  news: News;
  signboard: Signboard;
  closed: boolean;
}

function createSession(): Session {
  const info = workflowInfo();
  return {
    ref: { first_execution_id: info.firstExecutionRunId },
    run: newRun(info.workflowId),
    news: { mailbox: createMailbox(), controlsChanged: false },
    signboard: createSignboard(),
    closed: false,
  };
}

// Handlers are synchronous and total. Signals of other names get none: the SDK keeps them aside, while a default handler
// would fail the workflow task on names that it reserves.
function listen(session: Session): void {
  const { news } = session;
  setHandler(approvalGranted, (argument) => news.mailbox.post('approval_granted', argument));
  setHandler(approvalDenied, (argument) => news.mailbox.post('approval_denied', argument));
  setHandler(controlsChanged, () => {
    news.controlsChanged = true;
  });
  setHandler(stateQuery, () => viewOf(session.run, session.closed));
}

async function goOn(session: Session, input: unknown, carried: unknown): Promise<RunResult> {
  const { run, ref } = session;
  const continued = workflowInfo().continuedFromExecutionRunId !== undefined && carried !== undefined;
  if (continued) resume(session, carried);
  else applyOpened(run, await openRun(ref, input));
  try {
    await workToTheStop(session);
  } catch (error) {
    if (!isCancellation(error)) throw error;
    run.stop = { stop_reason: 'cancelled', reason: 'the run was cancelled' };
    const result = await closeDown(session, run.stop);
    // The planner was done and the ledger had it when the cancellation came: the run ended as it says there.
    if (result.stop_reason !== 'cancelled') return result;
    throw error;
  }
  return closeDown(session, run.stop ?? { stop_reason: 'planner_failed', reason: 'the run ended without a reason' });
}

async function workToTheStop(session: Session): Promise<void> {
  const { run, news, ref } = session;
  const gate = createApprovalGate(run, news);
  for (let move = nextMove(run); move.type !== 'stop'; move = nextMove(run)) {
    throwIfCancelled();
    await continueAsNewWhenSuggested(session, move);
    session.signboard.show(run, move);
    gate.setTimer();
    switch (move.type) {
      case 'plan':
        news.controlsChanged = false;
        applyPlan(run, await planNextStep(ref, move.step));
        break;
      case 'call':
        await makeCall(session, move);
        break;
      case 'wait':
        await gate.wait();
        break;
      default:
        assertNever(move, 'move');
    }
  }
}

async function makeCall({ run, news, ref }: Session, { slot, mode, tokens }: Extract<Move, { type: 'call' }>): Promise<void> {
  // The request may be decided before its id is known here: all mail is kept until the answer comes.
  news.mailbox.openTo(null);
  note(run, slot, { status: 'running' });
  const answer = await verbs.callTool({ ...ref, ...callOf(slot), mode, ...(tokens ? { tokens } : {}) });
  applyCall(run, slot, mode, answer, Date.now());
}

async function openRun(ref: Session['ref'], input: unknown): Promise<OpenRunResult> {
  refuseUnsendable(input);
  try {
    return await verbs.openRun({ ...ref, input: input ?? null });
  } catch (error) {
    throw invalidRunOf(error) ?? error;
  }
}

/** The input goes on to an activity; what could not be sent would fail the workflow task for ever. */
function refuseUnsendable(input: unknown): void {
  let bytes = Number.POSITIVE_INFINITY;
  try {
    bytes = new TextEncoder().encode(JSON.stringify(input) ?? '').length;
  } catch {
    // Nested too deep to be written again.
  }
  if (bytes > LIMITS.runFile) throw ApplicationFailure.nonRetryable(`the run's input has more than ${LIMITS.runFile} bytes or cannot be read`, 'invalid_run');
}

function invalidRunOf(error: unknown): ApplicationFailure | undefined {
  const cause = error instanceof ActivityFailure ? error.cause : undefined;
  return cause instanceof ApplicationFailure && cause.type === 'invalid_run' ? ApplicationFailure.nonRetryable(cause.message, 'invalid_run') : undefined;
}

/** Only the planner's own failure ends the run as such; a dead worker or database is waited for. */
async function planNextStep(ref: Session['ref'], step: number): Promise<PlanResult> {
  try {
    return await verbs.planNextStep({ ...ref, step });
  } catch (error) {
    const cause = error instanceof ActivityFailure ? error.cause : undefined;
    if (!(cause instanceof ApplicationFailure) || cause.type !== 'planner_failed') throw error;
    return { status: 'stopped', stop: { stop_reason: 'planner_failed', reason: cause.message } };
  }
}

function throwIfCancelled(): void {
  if (CancellationScope.current().consideredCancelled) throw new CancelledFailure('the run was cancelled');
}

async function closeDown(session: Session, wanted: Stop): Promise<RunResult> {
  const { run, ref } = session;
  let stop = wanted;
  session.signboard.show(run, { type: 'stop', stop });
  const detail = stop.stop_reason === 'cancelled' ? 'cancelled' : `${stop.stop_reason}: ${stop.reason}`;
  await Promise.all(requestsToClose(run).map((pendingId) => verbs.closeRequest({ ...ref, pending_id: pendingId, why: 'cancelled', detail })));
  if (!run.recorded) {
    const closed = await verbs.closeRun({ ...ref, stop });
    run.usage = closed.usage;
    stop = run.stop = closed.ended ?? stop;
    session.signboard.show(run, { type: 'stop', stop });
  }
  session.closed = true;
  return { run_id: run.run_id, status: 'stopped', ...stop, usage: run.usage };
}

/** Between steps and while waiting; a call in flight and a grant in hand come first. */
async function continueAsNewWhenSuggested(session: Session, move: Move): Promise<void> {
  if ((move.type !== 'plan' && move.type !== 'wait') || !workflowInfo().continueAsNewSuggested) return;
  const { run, left_grants: leftGrants } = carryRun(session.run, Date.now());
  const { mail, judged, ask_ledger: askLedger } = session.news.mailbox.contents();
  const carried = { version: 1, run, mail, judged, ask_ledger: askLedger || leftGrants, controls_changed: session.news.controlsChanged };
  await makeContinueAsNewFunc<typeof agentRun>()(null, carried);
}

function resume(session: Session, value: unknown): void {
  const carried = readCarried(value, session.run.run_id);
  if (!carried) throw ApplicationFailure.nonRetryable('what the execution before this one left cannot be read', 'invalid_run');
  Object.assign(session.run, carried.run);
  session.news.mailbox.restore(carried);
  session.news.controlsChanged ||= carried.controls_changed;
}
