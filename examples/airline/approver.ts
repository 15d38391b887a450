/**
 * The approver: a program of its own with an API key of its own. It answers every request that waits, by what the ledger
 * says is asked and by the list of right writes. It knows nothing of the recordings.
 *
 *   HOLDPOINT_URL=... HOLDPOINT_API_KEY=... node --import tsx examples/airline/approver.ts
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { type ApprovalView, HoldpointClient, isHoldpointError } from 'holdpoint';
import { tasks, verdictOn } from './tasks.ts';

const PAUSE_MS = 50;
/** Somebody else closed the request between the look and the answer: nothing is left to decide. */
const NOTHING_LEFT = new Set(['request_closed', 'decision_late', 'decision_conflict']);

const client = new HoldpointClient({ url: given('HOLDPOINT_URL'), apiKey: given('HOLDPOINT_API_KEY') });
for (;;) {
  await Promise.all((await client.listApprovals({ status: 'open', limit: 200 })).map(answer));
  await sleep(PAUSE_MS);
}

async function answer(request: ApprovalView): Promise<void> {
  // The goal is the owner's word, given when the run was started. What the agent says of its call is not looked at.
  const { goal } = await client.getRun(request.run_id);
  const approvedBefore = await client.listApprovals({ run: request.run_id, status: 'approved', limit: 200 });
  const task = tasks.find((each) => each.goal === goal);
  try {
    await client.decide(request.pending_id, verdictOn(request, task, approvedBefore));
  } catch (error) {
    if (!isHoldpointError(error) || !NOTHING_LEFT.has(error.code)) throw error;
  }
}

function given(name: string): string {
  const value = process.env[name];
  if (!value) throw new Error(`${name} is not set`);
  return value;
}
