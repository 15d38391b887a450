/** Waiting for people: one timer for the nearest deadline, a mailbox, and the gateway as the only one that is believed. */
import { CancellationScope, condition, sleep, workflowInfo } from '@temporalio/workflow';
import { HoldpointError } from '../core/errors.ts';
import type { Mail, Mailbox } from '../core/mail.ts';
import type { CallInput } from '../core/run-contract.ts';
import { applyCall, applyRequestState, nextMove, openSlots, type Run, type Slot, type WaitingSlot } from '../core/run.ts';
import { label } from '../core/text.ts';
import { callTool, closeRequest, verifyDecisions } from './verbs.ts';

export interface ApprovalGate {
  /** Sets the timer to the nearest deadline. Does nothing when it is set to it already. */
  setTimer(): void;
  /** Returns after one round of news was taken in, or when the run should continue as new. */
  wait(): Promise<void>;
}

/** What the gate shares with the run's signal handlers. */
export interface News {
  mailbox: Mailbox;
  controlsChanged: boolean;
}

interface Timer {
  deadline: number;
  fired: boolean;
  scope: CancellationScope;
}

export function createApprovalGate(run: Run, news: News): ApprovalGate {
  let timer: Timer | undefined;
  const ref = { first_execution_id: workflowInfo().firstExecutionRunId };

  return {
    setTimer() {
      const nearest = openSlots(run).sort((a, b) => a.standing.deadline - b.standing.deadline)[0];
      if (timer && nearest && timer.deadline === nearest.standing.deadline) return;
      timer?.scope.cancel();
      timer = nearest && startTimer(nearest);
    },
    async wait() {
      news.mailbox.openTo(new Set(openSlots(run).map((slot) => slot.standing.request.pending_id)));
      await condition(() => news.mailbox.hasNews() || news.controlsChanged || timer?.fired === true || workflowInfo().continueAsNewSuggested);
      if (news.mailbox.hasNews()) await readMail(run, news.mailbox, ref);
      // A timer that fired is believed over this task's clock, which may be another machine's.
      if (nextMove(run).type === 'wait') await closeDue(run, ref, timer?.fired ? Math.max(timer.deadline, Date.now()) : Date.now());
      if (nextMove(run).type === 'wait' && news.controlsChanged) await askAgain(run, news, ref);
    },
  };
}

type Ref = { first_execution_id: string };

function startTimer(slot: WaitingSlot): Timer {
  const { request, deadline } = slot.standing;
  const timer: Timer = { deadline, fired: false, scope: new CancellationScope() };
  const summary = `${label(slot.call_id)} ${label(request.tool)}: wait for approval (${label(request.pending_id)})`;
  timer.scope
    .run(() => sleep(Math.max(1, deadline - Date.now()), { summary }))
    .then(
      () => {
        timer.fired = true;
      },
      () => {
        /* cancelled: another timer took its place, or the run is over */
      },
    );
  return timer;
}

/** One batch of mail. What a signal says never counts; what the gateway makes of its token does. */
async function readMail(run: Run, mailbox: Mailbox, ref: Ref): Promise<void> {
  const batch = mailbox.take();
  const lost = mailbox.takeLoss();
  const direct = lost || mailbox.hasNews() ? undefined : directGrant(run, batch);
  if (direct) {
    const { slot, token } = direct;
    // The answer may be another request, and somebody may decide it before its id is known here.
    mailbox.openTo(null);
    const answer = await callTool({ ...ref, ...callOf(slot), mode: 'execute', tokens: [token] });
    applyCall(run, slot, 'execute', answer, Date.now());
  } else {
    const open = openSlots(run).map((slot) => slot.standing.request.pending_id);
    const { requests } = await verifyDecisions({ ...ref, messages: batch, open });
    if (!Array.isArray(requests)) throw new HoldpointError('internal', 'verifyDecisions answered with no list of requests');
    for (const state of requests) applyRequestState(run, state, Date.now(), false);
  }
  mailbox.remember(batch);
}

/** The common case, one grant for the first waiting call, is verified by the very activity that executes it. */
function directGrant(run: Run, batch: readonly Mail[]): { slot: WaitingSlot; token: string } | undefined {
  const [message] = batch;
  const [slot] = openSlots(run);
  if (batch.length !== 1 || !message || !slot || message.signal !== 'approval_granted' || message.token === null) return undefined;
  const { pending_id: pendingId, quorum, missing } = slot.standing.request;
  return message.pending_id === pendingId && quorum === 1 && missing <= 1 ? { slot, token: message.token } : undefined;
}

/** The ledger's clock decides whether time is up: it may honour decisions that came in time, or say that it is too early. */
async function closeDue(run: Run, ref: Ref, dueAt: number): Promise<void> {
  for (const slot of openSlots(run)) {
    if (run.stop || slot.standing.deadline > dueAt) continue;
    const state = await closeRequest({ ...ref, pending_id: slot.standing.request.pending_id, why: 'deadline' });
    applyRequestState(run, state, Date.now(), true);
  }
}

/** Policy or kill switch changed: every open request is asked about again. */
async function askAgain(run: Run, news: News, ref: Ref): Promise<void> {
  news.controlsChanged = false;
  news.mailbox.openTo(null);
  for (const slot of openSlots(run)) {
    if (run.stop) return;
    applyCall(run, slot, 'evaluate', await callTool({ ...ref, ...callOf(slot), mode: 'evaluate' }), Date.now());
  }
}

/** What the gateway is told about a call; it believes the ledger's copy where there is one. */
export function callOf(slot: Slot): Pick<CallInput, 'call_id' | 'tool' | 'args' | 'reason' | 'oversized_bytes'> {
  const { tool, args, reason, oversized_bytes: oversized } = slot.call;
  return {
    call_id: slot.call_id,
    tool,
    args,
    ...(reason === undefined ? {} : { reason }),
    ...(oversized === undefined ? {} : { oversized_bytes: oversized }),
  };
}
