/**
 * The gateway: the only path to a tool. It believes of its caller the run's key, which Temporal vouches for, and the
 * call; everything else it reads from the ledger.
 */
import { ApplicationFailure } from '@temporalio/common';
import type {
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
import { storableText } from '../core/text.ts';
import { LIMITS } from '../core/words.ts';
import { admitCall, readCall } from './admit.ts';
import { refuseCall, stopOf } from './call-context.ts';
import { executeClaim } from './execute.ts';
import { closeRun, known, knownRun, openRun, planNextStep } from './planner.ts';
import type { GatewayPorts } from './ports.ts';
import { readIds, readMessages, readStep, readStop, readText } from './read-input.ts';
import { cancelRequest, closeAtDeadline, requestState } from './requests.ts';
import { decisionOf, proveToken, recordRejection } from './tokens.ts';

/** Workflow id and first execution id. */
export interface RunKey {
  run_id: string;
  first_execution_id: string;
}

/** What an agent run can ask. Each function may be repeated: twice is once. */
export interface Gateway {
  openRun(key: RunKey, input: Omit<OpenRunInput, 'first_execution_id'>): Promise<OpenRunResult>;
  planNextStep(key: RunKey, input: Omit<PlanInput, 'first_execution_id'>): Promise<PlanResult>;
  callTool(key: RunKey, input: Omit<CallInput, 'first_execution_id'>): Promise<CallResult>;
  verifyDecisions(key: RunKey, input: Omit<VerifyInput, 'first_execution_id'>): Promise<VerifyResult>;
  closeRequest(key: RunKey, input: Omit<CloseRequestInput, 'first_execution_id'>): Promise<RequestState>;
  closeRun(key: RunKey, input: Omit<CloseRunInput, 'first_execution_id'>): Promise<CloseRunResult>;
}

export function createGateway(ports: GatewayPorts): Gateway {
  return {
    openRun: (key, input) => openRun(ports, key, input),
    planNextStep: async (key, input) => planNextStep(ports, key, readStep(input.step)),
    callTool: (key, input) => callTool(ports, key, input),
    verifyDecisions: (key, input) => verifyDecisions(ports, key, input),
    closeRequest: (key, input) => closeRequest(ports, key, input),
    closeRun: async (key, input) => closeRun(ports, key, readStop(input.stop)),
  };
}

async function callTool(ports: GatewayPorts, key: RunKey, given: Omit<CallInput, 'first_execution_id'>): Promise<CallResult> {
  const input = storableInput(given);
  if (!/^\d{1,9}\.\d{1,9}$/.test(input.call_id)) throw ApplicationFailure.nonRetryable('call_id is not of the form step.position', 'invalid_request');
  const unique = new Set(Array.isArray(input.tokens) ? input.tokens.slice(0, LIMITS.batch) : []);
  const tokens = await Promise.all([...unique].map((token) => proveToken(ports.tokens, token)));
  const reading = readCall({ ports, input }, input.args);
  const admission = await ports.ledger.withCall(key, input, async (ledger, found) =>
    admitCall({ ports, ledger, run: known(ledger, found.run), input, loaded: ports.policy.current(), tokens, found }, reading),
  );
  return admission.type === 'answer' ? admission.result : executeClaim(ports, key, input.call_id, admission.claim);
}

/** The caller may be any workflow, so nothing is taken for what its type says. */
function storableInput(input: Omit<CallInput, 'first_execution_id'>): Omit<CallInput, 'first_execution_id'> {
  const { reason, ...rest } = input;
  return {
    ...rest,
    call_id: String(input.call_id),
    tool: storableText(String(input.tool).slice(0, 200)),
    mode: input.mode === 'execute' ? 'execute' : 'evaluate',
    ...(typeof reason === 'string' ? { reason: storableText(reason.slice(0, LIMITS.text)) } : {}),
  };
}

/** Judges mail without executing anything: bad mail is recorded, good mail only confirms what the ledger holds already. */
async function verifyDecisions(ports: GatewayPorts, key: RunKey, input: Omit<VerifyInput, 'first_execution_id'>): Promise<VerifyResult> {
  const messages = readMessages(input.messages);
  const open = readIds(input.open);
  const proven = await Promise.all(messages.map(async (message) => ({ message, token: await proveToken(ports.tokens, message.token) })));
  return ports.ledger.withRun(key, async (ledger) => {
    const loaded = ports.policy.current();
    for (const { message, token } of proven) {
      const request = await ledger.request(message.pending_id);
      if (!request) continue;
      const expected = message.signal === 'approval_granted' ? 'approved' : 'denied';
      const result = decisionOf(request, await ledger.votes(request.pending_id), token, expected, ledger.now());
      if ('problem' in result) await recordRejection(ledger, request, result.problem, `a token in ${message.signal}`);
    }
    const requests: RequestState[] = [];
    for (const pendingId of open) requests.push(await requestState(ledger, loaded, pendingId));
    return { requests };
  });
}

async function closeRequest(ports: GatewayPorts, key: RunKey, input: Omit<CloseRequestInput, 'first_execution_id'>): Promise<RequestState> {
  const pendingId = readText(input.pending_id, 'pending_id');
  const detail = readText(input.detail ?? 'cancelled', 'detail');
  return ports.ledger.withRun(key, async (ledger) => {
    const run = await knownRun(ledger);
    const loaded = ports.policy.current();
    const request = await ledger.request(pendingId);
    const call = request && (await ledger.call(request.call_id));
    // Asked again after a reset, say: what the call has become since is no longer this activity's to change.
    if (!request || call?.status !== 'waiting' || call.pending_id !== pendingId) return requestState(ledger, loaded, pendingId);
    if (input.why === 'deadline') return closeAtDeadline({ ledger, hashing: ports.hashing }, loaded, run, request);
    await cancelRequest(ledger, request, detail, 'the run ended');
    const stop = stopOf('cancelled', `the request for ${request.tool} was closed because the run ended`, request);
    const refused = await refuseCall(ledger, loaded, call, stop, true);
    return { pending_id: pendingId, status: 'refused', final: refused.final, stop: refused.stop };
  });
}
