/** The activities of a worker: the gateway behind Temporal's activity context. */
import { activityInfo, Context } from '@temporalio/activity';
import { ApplicationFailure } from '@temporalio/common';
import type { AgentActivities } from '../core/run-contract.ts';
import { isStorable } from '../core/text.ts';
import { SYSTEM_RUN } from '../core/words.ts';
import { createGateway, type RunKey } from './gateway.ts';
import type { Executions, GatewayPorts } from './ports.ts';

export type { Executions, GatewayPorts } from './ports.ts';

/** @returns what a worker registers as its activities */
export function createActivities(ports: GatewayPorts, executions: Executions): AgentActivities {
  const gateway = createGateway(ports);
  const runKey = (input: unknown): Promise<RunKey> => provenKey(executions, input);
  return {
    openRun: async (input) => gateway.openRun(await runKey(input), input),
    planNextStep: (input) => withHeartbeat(async () => gateway.planNextStep(await runKey(input), input)),
    callTool: (input) => withHeartbeat(async () => gateway.callTool(await runKey(input), input)),
    verifyDecisions: (input) => withHeartbeat(async () => gateway.verifyDecisions(await runKey(input), input)),
    closeRequest: async (input) => gateway.closeRequest(await runKey(input), input),
    closeRun: async (input) => gateway.closeRun(await runKey(input), input),
  };
}

/**
 * The run's key as Temporal vouches for it: the ids come from its own record of the activity, since a workflow could claim any.
 * A workflow that took the id of an ended run is another chain, whatever it says.
 */
async function provenKey(executions: Executions, input: unknown): Promise<RunKey> {
  const { first_execution_id: firstExecutionId } = (typeof input === 'object' && input !== null ? input : {}) as { first_execution_id?: unknown };
  if (typeof firstExecutionId !== 'string' || firstExecutionId.length === 0 || firstExecutionId.length > 100 || !isStorable(firstExecutionId)) {
    throw ApplicationFailure.nonRetryable('first_execution_id is missing', 'invalid_request');
  }
  const { workflowId: runId, runId: executionId } = activityInfo().workflowExecution ?? {};
  if (runId === undefined || executionId === undefined) throw ApplicationFailure.nonRetryable('this activity belongs to no workflow', 'invalid_request');
  // The service's own events stand under this name, and the kill switch waits for its lock.
  if (runId === SYSTEM_RUN || !isStorable(runId)) throw ApplicationFailure.nonRetryable(`no run can have the id ${JSON.stringify(runId)}`, 'invalid_run');
  // The first execution proves itself; one that continued it, or was reset from it, is looked up.
  if (executionId !== firstExecutionId && (await executions.firstOf({ workflow_id: runId, execution_id: executionId })) !== firstExecutionId) {
    throw ApplicationFailure.nonRetryable(`execution ${executionId} of ${runId} does not belong to ${firstExecutionId}`, 'run_unknown');
  }
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
