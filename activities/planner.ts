/** Begin, next step and end of a run. */
import { ApplicationFailure } from '@temporalio/common';
import { exhaustedBudget } from '../core/budget.ts';
import { auditFacts } from '../core/audit.ts';
import { PlannerAnswer, RunFile } from '../core/contracts.ts';
import { messageOf } from '../core/errors.ts';
import { completedStop } from '../core/run.ts';
import type { CloseRunResult, OpenRunResult, PlannedCall, PlanResult, Stop } from '../core/run-contract.ts';
import { LIMITS, UNVERIFIED_AGENT } from '../core/words.ts';
import { runFacts } from './call-context.ts';
import type { TranscriptEntry } from './define.ts';
import { engagedSwitch } from './judge.ts';
import type { GatewayPorts, RunLedger, RunRow, TranscriptRow } from './ports.ts';
import { cancelRequest } from './requests.ts';

type RunKey = { run_id: string; first_execution_id: string };

/** How often a planner is asked again after it threw or answered nonsense. */
const PLANNER_ATTEMPTS = 3;

export async function openRun(ports: GatewayPorts, key: RunKey, input: { input: unknown }): Promise<OpenRunResult> {
  const run = await ports.ledger.withRun(key, async (ledger) => (await ledger.run()) ?? (await admitRun(ledger, key, input)));
  return { agent: run.agent, goal: run.goal, registered: run.registered, search_attributes: ports.searchAttributes };
}

async function admitRun(ledger: RunLedger, key: RunKey, input: { input: unknown }): Promise<RunRow> {
  const registration = await ledger.registration();
  if (registration?.first_execution_id === null) {
    throw ApplicationFailure.retryable(`run ${key.run_id} is registered but its start is not recorded yet`, 'run_not_bound');
  }
  const registered = registration?.first_execution_id === key.first_execution_id;
  const parsed = RunFile.safeParse(registered ? registration.input : input.input);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join('.') || 'input'}: ${issue.message}`).join('; ');
    throw ApplicationFailure.nonRetryable(`the start input cannot be read: ${problems}`, 'invalid_run');
  }
  const { goal = '', ttl_seconds = null } = parsed.data;
  const row = registered
    ? { registered, agent: registration.agent, owner: registration.owner, requester: registration.requester, goal, ttl_seconds }
    : { registered, agent: UNVERIFIED_AGENT, owner: null, requester: parsed.data.requester, goal, ttl_seconds };
  await ledger.insertRun(row, parsed.data);
  const detail = registered ? goal.slice(0, LIMITS.text) : 'not started through the API: every write asks';
  await ledger.append(
    auditFacts({
      agent: row.agent,
      owner: row.owner,
      requester: row.requester,
      event_key: `${key.first_execution_id}/run_started`,
      outcome: 'run_started',
      detail,
    }),
  );
  return { ...row, stop: null, usage: { steps: 0, tool_calls: 0, active_seconds: 0, usd: 0 }, plans: 0 };
}

/** The run's row, or a failure that no retry mends: the workflow skipped `openRun`. */
export async function knownRun(ledger: RunLedger): Promise<RunRow> {
  return known(ledger, await ledger.run());
}

export function known(ledger: RunLedger, run: RunRow | undefined): RunRow {
  if (!run) throw ApplicationFailure.nonRetryable(`run ${ledger.run_id} was never opened under execution ${ledger.first_execution_id}`, 'run_unknown');
  return run;
}

export async function planNextStep(ports: GatewayPorts, key: RunKey, step: number): Promise<PlanResult> {
  const admitted = await ports.ledger.withRun(key, (ledger) => admitStep(ports, ledger, step));
  if ('stop' in admitted) return { status: 'stopped', stop: admitted.stop };
  const { run, planner, attempt } = admitted;
  // A script does not look back; reading it the transcript would make each step dearer than the one before.
  const transcript = planner.type === 'script' ? [] : (await ports.ledger.transcript(key)).map(entryOf);
  const startedAt = performance.now();
  const answer = await askPlanner(ports, planner, step, { goal: run.goal, transcript, refusals: transcript.filter((entry) => entry.status !== 'executed') });
  const used = { usd: answer.usage?.usd ?? 0, active_ms: performance.now() - startedAt };
  const result = 'done' in answer && typeof answer.done === 'string' ? answer.done.slice(0, LIMITS.text) : undefined;
  const closed = await ports.ledger.withRun(key, async (ledger) => {
    await ledger.settleStep(step, used);
    await ledger.addUsage(used);
    // In the same transaction: a run that is done needs no activity of its own to say so.
    return 'done' in answer && (await isNewest(ledger, attempt)) ? recordStop(ledger, completedStop(result)) : undefined;
  });
  if (closed?.ended) return { status: 'stopped', stop: closed.ended };
  if ('done' in answer) return { status: 'done', ...(closed ? { usage: closed.usage } : {}), ...(result === undefined ? {} : { result }) };
  return { status: 'calls', calls: boundedCalls(ports, answer.calls) };
}

/**
 * An attempt that Temporal gave up (a worker that stood still, a reset) may still answer. Another one may have gone on meanwhile, and
 * people may be asked about what it planned: then this one ends nothing, and Temporal does not hear it either.
 */
async function isNewest(ledger: RunLedger, attempt: number): Promise<boolean> {
  return (await knownRun(ledger)).plans === attempt && (await ledger.openRequests()).length === 0;
}

async function admitStep(
  ports: GatewayPorts,
  ledger: RunLedger,
  step: number,
): Promise<{ run: RunRow; planner: RunFile['planner']; attempt: number } | { stop: Stop }> {
  const run = await knownRun(ledger);
  if (run.stop) return { stop: run.stop };
  const loaded = ports.policy.current();
  const switched = await engagedSwitch(ledger, loaded, run);
  if (switched) return { stop: { stop_reason: 'kill_switch', reason: switched } };
  const { planner } = await ledger.runFile();
  if (await ledger.step(step)) return { run, planner, attempt: await ledger.beginPlan() };
  const exhausted = exhaustedBudget(loaded.policy.budgets, run.usage, 'step');
  if (exhausted)
    return { stop: { stop_reason: 'budget_exceeded', reason: `${exhausted.budget}: ${exhausted.used} of ${exhausted.limit} used`, budget: exhausted.budget } };
  await ledger.insertStep(step);
  await ledger.addUsage({ steps: 1 });
  return { run, planner, attempt: await ledger.beginPlan() };
}

async function askPlanner(
  ports: GatewayPorts,
  planner: RunFile['planner'],
  step: number,
  input: Parameters<GatewayPorts['planners']['plan']>[2],
): Promise<PlannerAnswer> {
  let problem = '';
  for (let attempt = 1; attempt <= PLANNER_ATTEMPTS; attempt++) {
    try {
      const answer = PlannerAnswer.safeParse(await ports.planners.plan(planner, step, input));
      if (answer.success && !('done' in answer.data && answer.data.done === false)) return answer.data;
      problem = answer.success
        ? 'done: false without calls'
        : answer.error.issues.map((issue) => `${issue.path.join('.') || 'answer'}: ${issue.message}`).join('; ');
    } catch (error) {
      problem = messageOf(error);
    }
    if (attempt < PLANNER_ATTEMPTS) await new Promise((resolve) => setTimeout(resolve, 300 * attempt));
  }
  throw ApplicationFailure.nonRetryable(`the planner failed ${PLANNER_ATTEMPTS} times in step ${step}: ${problem.slice(0, 1_000)}`, 'planner_failed');
}

type AskedCall = { tool: string; args: unknown; reason?: string | undefined };

/** What no longer fits into a step is left out as if it were too large by itself: Temporal would take none of it. */
function boundedCalls(ports: GatewayPorts, calls: readonly AskedCall[]): PlannedCall[] {
  let room: number = LIMITS.step;
  return calls.map((call) => {
    const bounded = boundedCall(ports, call, room);
    room -= Buffer.byteLength(JSON.stringify(bounded));
    return bounded;
  });
}

/** Arguments over the limit never enter Temporal's history: their size goes to the gateway instead, which refuses them. */
function boundedCall(ports: GatewayPorts, call: AskedCall, room: number): PlannedCall {
  const named = { tool: call.tool, ...(call.reason === undefined ? {} : { reason: call.reason }) };
  let bytes: number;
  try {
    bytes = Buffer.byteLength(ports.hashing.canonical(call.args ?? null));
  } catch (error) {
    return { ...named, args: { holdpoint_note: messageOf(error) }, oversized_bytes: 0 };
  }
  return bytes > LIMITS.args || bytes > room ? { ...named, args: null, oversized_bytes: bytes } : { ...named, args: call.args ?? null };
}

function entryOf(call: TranscriptRow): TranscriptEntry {
  const invalid = call.stop?.rule === 'unknown_tool' || call.stop?.rule === 'invalid_arguments';
  const entry = { call_id: call.call_id, tool: call.tool, args: call.canonical === null ? null : (JSON.parse(call.canonical) as unknown) };
  if (call.status === 'done') return { ...entry, status: 'executed', result: parsedResult(call.result) };
  return { ...entry, status: invalid ? 'invalid' : 'refused', reason: call.stop?.reason ?? 'refused' };
}

/** A result that was cut is no JSON any more and goes to the planner as text. */
function parsedResult(text: string | null): unknown {
  try {
    return JSON.parse(text ?? 'null');
  } catch {
    return text;
  }
}

export function closeRun(ports: GatewayPorts, key: RunKey, stop: Stop): Promise<CloseRunResult> {
  return ports.ledger.withRun(key, (ledger) => recordStop(ledger, stop));
}

/** Records the end of a run once: what ended it first stays the reason. */
async function recordStop(ledger: RunLedger, stop: Stop): Promise<CloseRunResult> {
  const run = await knownRun(ledger);
  if (run.stop) return { usage: run.usage, ended: run.stop };
  for (const request of await ledger.openRequests()) await cancelRequest(ledger, request, stop.stop_reason, 'the run ended');
  await ledger.stopRun(stop);
  await ledger.append(
    auditFacts({
      ...runFacts(run),
      event_key: `${ledger.first_execution_id}/run_stopped`,
      outcome: 'run_stopped',
      reason: stop.stop_reason,
      result: stop.stop_reason,
      detail: stop.reason.slice(0, LIMITS.text),
      call_id: stop.call_id ?? null,
      tool: stop.tool ?? null,
      rule: stop.budget ?? stop.rule ?? null,
    }),
  );
  return { usage: run.usage };
}
