/** The activities as the workflow calls them: retried until they answer, labelled for Temporal Web. */
import { ActivityCancellationType, ActivityFailure, CancellationScope, proxyActivities } from '@temporalio/workflow';
import type {
  AgentActivities,
  CallInput,
  CallResult,
  CloseRequestInput,
  CloseRunInput,
  CloseRunResult,
  OpenRunInput,
  OpenRunResult,
  PlanInput,
  PlanResult,
  RequestState,
  VerifyInput,
  VerifyResult,
} from '../core/run-contract.ts';
import { label } from '../core/text.ts';

// The ledger decides what a repeated attempt may do, so every verb is repeated for as long as it takes.
const retry = { initialInterval: '200ms', backoffCoefficient: 2, maximumInterval: '5s' } as const;
const heartbeatTimeout = '8s';

const quick = proxyActivities<AgentActivities>({ startToCloseTimeout: '1 minute', retry });
const gateway = proxyActivities<AgentActivities>({ startToCloseTimeout: '1 hour', heartbeatTimeout, retry });
// A cancelled run does not wait for its planner, which has no effect on the world.
const planner = proxyActivities<AgentActivities>({
  startToCloseTimeout: '10 minutes',
  heartbeatTimeout,
  retry,
  cancellationType: ActivityCancellationType.TRY_CANCEL,
});

/** What has begun is finished and recorded, also when the run is cancelled meanwhile. */
const toItsEnd = <T>(work: () => Promise<T>): Promise<T> => CancellationScope.nonCancellable(work);

export function openRun(input: OpenRunInput): Promise<OpenRunResult> {
  return toItsEnd(() => quick.openRun.executeWithOptions({ summary: 'open the run' }, [input]));
}

export function planNextStep(input: PlanInput): Promise<PlanResult> {
  return planner.planNextStep.executeWithOptions({ summary: `plan step ${input.step}` }, [input]);
}

export async function callTool(input: CallInput): Promise<CallResult> {
  const purpose = input.tokens ? 'execute if approved' : input.mode === 'execute' ? 'ask policy, execute if allowed' : 'ask policy';
  const summary = `${input.call_id} ${label(input.tool)}: ${purpose}`;
  try {
    return await toItsEnd(() => gateway.callTool.executeWithOptions({ summary }, [input]));
  } catch (error) {
    if (!(error instanceof ActivityFailure)) throw error;
    // The gateway gave up, or somebody else ended the activity: nobody here knows how far it came.
    const reason = `the gateway failed in call ${input.call_id}: ${error.cause?.message ?? error.message}`;
    return { status: 'stopped', stop: { stop_reason: 'outcome_unknown', reason, call_id: input.call_id, tool: input.tool } };
  }
}

export function verifyDecisions(input: VerifyInput): Promise<VerifyResult> {
  const summary = input.messages.length === 1 ? 'verify 1 message' : `verify ${input.messages.length} messages`;
  return toItsEnd(() => quick.verifyDecisions.executeWithOptions({ summary }, [input]));
}

export function closeRequest(input: CloseRequestInput): Promise<RequestState> {
  const summary =
    input.why === 'deadline' ? `time is up for ${label(input.pending_id)}` : `close ${label(input.pending_id)}: ${label(input.detail ?? 'cancelled')}`;
  return toItsEnd(() => quick.closeRequest.executeWithOptions({ summary }, [input]));
}

export function closeRun(input: CloseRunInput): Promise<CloseRunResult> {
  return toItsEnd(() => quick.closeRun.executeWithOptions({ summary: `close the run: ${label(input.stop.stop_reason)}` }, [input]));
}
