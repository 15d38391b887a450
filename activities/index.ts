/** The activities of a worker: the gateway behind Temporal's activity context. */
import { activityInfo, Context } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import type { AgentActivities } from '../core/run-contract.ts';
import { isStorable } from '../core/text.ts';
import { SYSTEM_RUN } from '../core/words.ts';
import { createGateway, type RunKey } from './gateway.ts';
import type { GatewayPorts } from './ports.ts';

export type { GatewayPorts } from './ports.ts';

/** @returns what a worker registers as its activities */
export function createActivities(ports: GatewayPorts): AgentActivities {
  const gateway = createGateway(ports);
  return {
    openRun: (input) => gateway.openRun(runKey(input), input),
    planNextStep: (input) => withHeartbeat(() => gateway.planNextStep(runKey(input), input)),
    callTool: (input) => withHeartbeat(() => gateway.callTool(runKey(input), input)),
    verifyDecisions: (input) => withHeartbeat(() => gateway.verifyDecisions(runKey(input), input)),
    closeRequest: (input) => gateway.closeRequest(runKey(input), input),
    closeRun: (input) => gateway.closeRun(runKey(input), input),
  };
}

/**
 * The run's key: the id comes from Temporal's own record of the activity, since a workflow could claim any.
 * What the workflow says counts only as the name of its execution chain.
 */
function runKey(input: unknown): RunKey {
  const { first_execution_id: firstExecutionId } = (typeof input === 'object' && input !== null ? input : {}) as { first_execution_id?: unknown };
  if (typeof firstExecutionId !== 'string' || firstExecutionId.length === 0 || firstExecutionId.length > 100 || !isStorable(firstExecutionId)) {
    throw ApplicationFailure.nonRetryable('first_execution_id is missing', 'invalid_request');
  }
  const runId = activityInfo().workflowExecution?.workflowId;
  if (runId === undefined) throw ApplicationFailure.nonRetryable('this activity belongs to no workflow', 'invalid_request');
  // The service's own events stand under this name, and the kill switch waits for its lock.
  if (runId === SYSTEM_RUN || !isStorable(runId)) throw ApplicationFailure.nonRetryable(`no run can have the id ${JSON.stringify(runId)}`, 'invalid_run');
  return { run_id: runId, first_execution_id: firstExecutionId };
}

/** Tells Temporal every 2 s that this attempt lives, so that a dead worker is noticed within the heartbeat timeout. */
async function withHeartbeat<T>(work: () => Promise<T>): Promise<T> {
  const context = Context.current();
  const timer = setInterval(() => context.heartbeat(), 2_000);
  try {
    return await work();
  } finally {
    clearInterval(timer);
  }
}
