/** Calls the tool on a claim that was won, and records how it ended. The only place where a tool is called. */
import { messageOf } from '../core/errors.ts';
import type { CallResult } from '../core/run-contract.ts';
import { LIMITS } from '../core/words.ts';
import { type Claim, eventKey, settledAnswer, stopOf, summaryOf } from './call-context.ts';
import { engagedSwitch } from './judge.ts';
import type { CallRow, GatewayPorts, RunLedger } from './ports.ts';

/** Pauses before a tool that may be repeated is tried again; after the last its error counts. */
const BACKOFF_MS = [200, 1_000];

type RunKey = { run_id: string; first_execution_id: string };
type Outcome = { status: 'ok' | 'error' | 'unknown'; text: string; active_ms: number };

export async function executeClaim(ports: GatewayPorts, run: RunKey, callId: string, claim: Claim): Promise<CallResult> {
  const outcome = await callWithRetries(ports, run, callId, claim);
  return ports.ledger.withCall(run, { call_id: callId }, (ledger, { call }) => settle(ports, ledger, call, claim, outcome));
}

async function callWithRetries(ports: GatewayPorts, run: RunKey, callId: string, claim: Claim): Promise<Outcome> {
  const startedAt = performance.now();
  const repeatable = claim.tool.kind === 'read' || claim.tool.idempotent;
  for (let attempt = 1; ; attempt++) {
    const result = await callOnce(run.run_id, callId, claim);
    const active_ms = performance.now() - startedAt;
    if (result.status === 'ok') return { status: 'ok', text: jsonText(result.value), active_ms };
    if (!repeatable) return { status: result.status, text: result.message, active_ms };
    const pause = BACKOFF_MS[attempt - 1];
    if (pause === undefined) return { status: 'error', text: result.message, active_ms };
    await new Promise((resolve) => setTimeout(resolve, pause));
    const standing = await whyNotAgain(ports, run, callId, claim);
    if (standing !== undefined) return { status: result.status, text: `${result.message}; not tried again: ${standing}`, active_ms };
  }
}

/** A repeat is another effect: the kill switch may have been engaged, and another attempt may have taken over, meanwhile. */
function whyNotAgain(ports: GatewayPorts, key: RunKey, callId: string, claim: Claim): Promise<string | undefined> {
  return ports.ledger.withRun(key, async (ledger) => {
    const [run, call] = [await ledger.run(), await ledger.call(callId)];
    if (!run || call?.status !== 'executing' || call.fence !== claim.fence) return 'a newer attempt has taken over';
    return engagedSwitch(ledger, ports.policy.current(), run, claim.tool.name);
  });
}

type Attempt = { status: 'ok'; value: unknown } | { status: 'error' | 'unknown'; message: string };

async function callOnce(runId: string, callId: string, claim: Claim): Promise<Attempt> {
  const abort = new AbortController();
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<Attempt>((resolve) => {
    timer = setTimeout(() => {
      abort.abort();
      resolve({ status: 'unknown', message: `${claim.tool.name} did not answer within ${claim.tool.timeoutMs / 1000} s` });
    }, claim.tool.timeoutMs);
  });
  const context = { run_id: runId, call_id: callId, idempotency_key: claim.idempotency_key, signal: abort.signal };
  const call = (async (): Promise<Attempt> => {
    try {
      const value = await claim.tool.execute(claim.args, claim.approval_token === undefined ? context : { ...context, approval_token: claim.approval_token });
      return { status: 'ok', value };
    } catch (error) {
      return { status: 'error', message: messageOf(error) };
    }
  })();
  try {
    return await Promise.race([call, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A result that has no JSON form is still the result of an effect that was done. */
function jsonText(value: unknown): string {
  try {
    return JSON.stringify(value ?? null) ?? 'null';
  } catch (error) {
    return JSON.stringify({ holdpoint_note: `the tool's result has no JSON form: ${messageOf(error)}` });
  }
}

async function settle(ports: GatewayPorts, ledger: RunLedger, call: CallRow | undefined, claim: Claim, outcome: Outcome): Promise<CallResult> {
  if (!call) throw new Error('the row of a claimed call is gone');
  const callId = call.call_id;
  const result = {
    result_status: outcome.status,
    result: outcome.text.slice(0, LIMITS.result),
    result_bytes: Buffer.byteLength(outcome.text),
    result_sha256: ports.hashing.sha256(outcome.text),
  };
  if (call.fence !== claim.fence || call.status !== 'executing') return settleLate(ledger, call, claim, outcome, result);
  await ledger.append({
    ...claim.facts,
    event_key: eventKey(ledger, callId, 'allow'),
    outcome: 'allow',
    result: outcome.status,
    detail: outcome.status === 'ok' ? null : outcome.text.slice(0, LIMITS.text),
  });
  if (outcome.status === 'ok') {
    await ledger.updateCall(callId, { ...result, status: 'done' }, outcome.active_ms);
    return { status: 'executed', args_hash: claim.args_hash, result: summaryOf(result) };
  }
  const stop =
    outcome.status === 'error'
      ? stopOf('tool_failed', `${call.tool} failed: ${outcome.text.slice(0, 1_000)}`, call)
      : stopOf('outcome_unknown', `${call.tool} may or may not have happened: ${outcome.text}. Look at the system it acts on`, call);
  await ledger.updateCall(callId, { ...result, status: 'stopped', stop, final: true }, outcome.active_ms);
  return { status: 'stopped', stop };
}

/** Another attempt took over while this one was away. What it learned is recorded, and changes no answer that was given. */
async function settleLate(ledger: RunLedger, call: CallRow, claim: Claim, outcome: Outcome, result: Partial<CallRow>): Promise<CallResult> {
  await ledger.addUsage({ active_ms: outcome.active_ms });
  await ledger.append({
    ...claim.facts,
    event_key: eventKey(ledger, call.call_id, `outcome_resolved/${claim.fence}`),
    outcome: 'outcome_resolved',
    result: outcome.status,
    detail: `attempt ${claim.fence} ended after attempt ${call.fence} had taken over`,
  });
  if (call.result_status === 'unknown') await ledger.updateCall(call.call_id, result);
  return settledAnswer(call) ?? { status: 'stopped', stop: stopOf('outcome_unknown', `call ${call.call_id} is with a newer attempt`, call) };
}
