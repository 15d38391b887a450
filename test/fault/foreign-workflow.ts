/** What a namespace writer can run: a workflow of their own that schedules our activities with whatever they like. */
import { proxyActivities, workflowInfo } from '@temporalio/workflow';
import type { AgentActivities, CallInput } from '../../core/run-contract.ts';

/** @param given `first_execution_id: 'own'` tells the truth */
export async function foreign(taskQueue: string, given: CallInput): Promise<unknown> {
  const input = given.first_execution_id === 'own' ? { ...given, first_execution_id: workflowInfo().firstExecutionRunId } : given;
  const gateway = proxyActivities<AgentActivities>({ taskQueue, startToCloseTimeout: '20s', retry: { maximumAttempts: 1 } });
  await gateway
    .openRun({ first_execution_id: input.first_execution_id, input: { agent: 'support', requester: 'x', planner: { type: 'script', calls: [] } } })
    .catch(() => undefined);
  return gateway.callTool(input);
}
