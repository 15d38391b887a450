/**
 * The gateway's judgement of one call, in the order of the specification, inside one transaction. It ends in an answer
 * or in a claim: the right to execute once. Nothing here calls a tool.
 */
import { assertNever } from '../core/errors.ts';
import type { CallResult } from '../core/run-contract.ts';
import { LIMITS } from '../core/words.ts';
import { type Admission, answer, type CallContext, callFacts, eventKey, idempotencyKey, type Proposal, settledAnswer, stopOf } from './call-context.ts';
import { judge, type Verdict } from './judge.ts';
import { claimCall, denyCall, positionOf, stopCall, tokenArgument } from './outcomes.ts';
import type { CallRow, GatewayPorts, RegisteredTool, RequestRow } from './ports.ts';
import { createRequest, supersedeRequest, withdrawFor } from './requests.ts';
import { approvedArguments, refuseAltered, resumeWaiting } from './resume.ts';

export type Reading = { ok: true; proposal: Proposal } | { ok: false; code: 'unknown_tool' | 'invalid_arguments'; reason: string };

/** @param reading of the arguments that the caller gave */
export async function admitCall(ctx: CallContext, reading: Reading): Promise<Admission> {
  const known = ctx.found.call;
  if (known) {
    // Before anything else: a reset or a foreign caller may bring other arguments under a key that has a history.
    if (isOtherCall(ctx, known, reading)) return answer(await refuseConflict(ctx, known, reading));
    const settled = settledAnswer(known);
    if (settled) return answer(settled);
  }
  if (ctx.run.stop) return answer({ status: 'stopped', stop: ctx.run.stop });
  if (!reading.ok) return answer(known?.status === 'executing' ? await stopUnknown(ctx, known, reading.reason) : await refuseInvalid(ctx, known, reading));
  if (!known) return admitNew(ctx, reading.proposal);
  switch (known.status) {
    case 'ready':
      return admitChanged(ctx, reading.proposal, known);
    case 'waiting': {
      const resumed = await resumeWaiting(ctx, reading.proposal, known);
      return resumed.type === 'superseded' ? admitSuperseded(ctx, known, resumed.request) : resumed;
    }
    case 'executing':
      return admitInterrupted(ctx, reading.proposal, known);
    default:
      return answer({ status: 'stopped', stop: stopOf('policy_denied', `the call has the unexpected status ${known.status}`, known) });
  }
}

/** Parses once: what comes out is hashed, shown, stored and executed. Needs no ledger, so no lock is held meanwhile. */
export function readCall({ input, ports }: Pick<CallContext, 'input' | 'ports'>, args: unknown): Reading {
  const tool = ports.tools.get(input.tool);
  if (!tool) return { ok: false, code: 'unknown_tool', reason: `no tool is registered as ${JSON.stringify(input.tool)}` };
  if (input.oversized_bytes !== undefined) return tooLarge(input.oversized_bytes);
  return readArguments(ports, tool, args);
}

function readArguments({ hashing }: GatewayPorts, tool: RegisteredTool, args: unknown): Reading {
  const parsed = tool.parse(args);
  if (!parsed.ok) return { ok: false, code: 'invalid_arguments', reason: `${tool.name}: ${parsed.problem}` };
  const canonical = hashing.canonical(parsed.value);
  const bytes = Buffer.byteLength(canonical);
  if (bytes > LIMITS.args) return tooLarge(bytes);
  return { ok: true, proposal: { tool, value: parsed.value, canonical, args_hash: hashing.argsHash(tool.name, parsed.value) } };
}

function tooLarge(bytes: number): Reading {
  const limit = bytes > LIMITS.args ? `at most ${LIMITS.args} are taken` : `at most ${LIMITS.step} are taken in all calls of a step together`;
  return { ok: false, code: 'invalid_arguments', reason: `the arguments are ${bytes} bytes; ${limit}` };
}

/** The same key with another tool or other arguments. A changed tool definition alone is not another call. */
function isOtherCall(ctx: CallContext, known: CallRow, reading: Reading): boolean {
  if (ctx.input.tool !== known.tool) return true;
  const settled = settledAnswer(known);
  if (!reading.ok) return settled?.status === 'invalid' ? unreadableHash(ctx) !== known.args_hash : settled !== undefined || isSameTool(ctx, known);
  if (reading.proposal.args_hash === known.args_hash) return false;
  // Under a new definition the hash may differ for the same words; what is settled is never answered for other ones.
  return settled !== undefined || isSameTool(ctx, known);
}

function isSameTool(ctx: CallContext, known: CallRow): boolean {
  return ctx.ports.tools.get(known.tool)?.tool_hash === known.tool_hash;
}

/** A hash for arguments that no schema accepted, so that a retry of the same step is known as the same. */
function unreadableHash(ctx: CallContext): string {
  const { hashing } = ctx.ports;
  try {
    return hashing.argsHash(ctx.input.tool, ctx.input.args ?? null);
  } catch {
    return hashing.sha256('no canonical form');
  }
}

async function refuseConflict(ctx: CallContext, known: CallRow, reading: Reading): Promise<CallResult> {
  const hash = reading.ok ? reading.proposal.args_hash : unreadableHash(ctx);
  const reason = `call ${known.call_id} was ${known.tool} with ${known.args_hash} before and is ${ctx.input.tool} with ${hash} now`;
  await ctx.ledger.append({
    ...callFacts(
      ctx,
      { tool: ctx.input.tool, tool_hash: known.tool_hash, args_hash: hash },
      { reason: 'call_conflict', rule: 'call_conflict', detail: reason },
    ),
    event_key: eventKey(ctx.ledger, known.call_id, `call_conflict/${hash}`),
    outcome: 'deny',
  });
  return { status: 'refused', final: true, stop: stopOf('policy_denied', reason, known, 'call_conflict') };
}

async function refuseInvalid(ctx: CallContext, known: CallRow | undefined, reading: Reading & { ok: false }): Promise<CallResult> {
  const { ledger, input } = ctx;
  const tool = input.tool;
  const hash = unreadableHash(ctx);
  if (known) {
    await withdrawFor(ctx, known, reading.code, reading.reason);
    await ledger.addUsage({ tool_calls: -1 });
  } else await insertCall(ctx, { tool, kind: 'write', tool_hash: '', args_hash: hash }, 0);
  const stop = stopOf('policy_denied', reading.reason, { call_id: input.call_id, tool }, reading.code);
  await ledger.updateCall(input.call_id, { status: 'refused', final: false, stop });
  if (hash !== ctx.ports.hashing.sha256('no canonical form') && input.oversized_bytes === undefined) {
    await ledger.insertArguments(hash, tool, ctx.ports.hashing.canonical(input.args ?? null));
  }
  await ledger.append({
    ...callFacts(ctx, { tool, tool_hash: null, args_hash: hash }, { reason: reading.code, rule: reading.code, detail: reading.reason.slice(0, LIMITS.text) }),
    event_key: eventKey(ledger, input.call_id, 'deny'),
    outcome: 'deny',
  });
  return { status: 'invalid', code: reading.code, reason: reading.reason };
}

type NewCall = { tool: string; kind: 'read' | 'write'; tool_hash: string; args_hash: string };

async function insertCall(ctx: CallContext, call: NewCall, toolCalls: 0 | 1): Promise<void> {
  const [step, position] = positionOf(ctx.input.call_id);
  await ctx.ledger.insertCall({ ...call, call_id: ctx.input.call_id, step, position, reason: ctx.input.reason ?? null, status: 'ready' }, toolCalls);
}

async function admitNew(ctx: CallContext, proposal: Proposal): Promise<Admission> {
  const { tool, args_hash, canonical } = proposal;
  await ctx.ledger.insertArguments(args_hash, tool.name, canonical);
  const verdict = judge(ctx, proposal, false);
  const lives = verdict.outcome === 'allow' || verdict.outcome === 'approval_required';
  await insertCall(ctx, { tool: tool.name, kind: tool.kind, tool_hash: tool.tool_hash, args_hash }, lives ? 1 : 0);
  return applyVerdict(ctx, proposal, undefined, verdict);
}

/** Voids what was shown and judges the ledger's arguments anew, under the tool's new definition. */
async function admitSuperseded(ctx: CallContext, known: CallRow, request: RequestRow): Promise<Admission> {
  if (request.status !== 'superseded') await supersedeRequest(ctx.ledger, request, ctx.ports.tools.get(known.tool)?.tool_hash ?? 'none');
  const held = approvedArguments(ctx, known, request, ctx.found.waiting?.canonical);
  if (held === undefined) return answer(await refuseAltered(ctx, known, request));
  const reading = readCall(ctx, held.value);
  if (!reading.ok) return answer(await refuseInvalid(ctx, known, reading));
  return admitChanged(ctx, reading.proposal, known);
}

/** A call that is in the ledger without a claim: judged again, under the tool as it is now. */
async function admitChanged(ctx: CallContext, proposal: Proposal, known: CallRow): Promise<Admission> {
  const { args_hash, canonical, tool } = proposal;
  if (args_hash !== known.args_hash || tool.tool_hash !== known.tool_hash) {
    await ctx.ledger.insertArguments(args_hash, tool.name, canonical);
    await ctx.ledger.updateCall(known.call_id, { args_hash, tool_hash: tool.tool_hash, kind: tool.kind });
  }
  return applyVerdict(ctx, proposal, known, judge(ctx, proposal, true));
}

/** @param known the call's row when it has its place in the budget already */
async function applyVerdict(ctx: CallContext, proposal: Proposal, known: CallRow | undefined, verdict: Verdict): Promise<Admission> {
  switch (verdict.outcome) {
    case 'stop':
      return answer(await stopCall(ctx, proposal, verdict.stop));
    case 'deny':
      return answer(await denyCall(ctx, proposal, verdict, known !== undefined));
    case 'approval_required':
      return answer(await createRequest(ctx, proposal, verdict));
    case 'allow':
      if (ctx.input.mode === 'evaluate') return answer({ status: 'ready', args_hash: proposal.args_hash });
      return { type: 'execute', claim: await claimCall(ctx, proposal, known?.fence ?? 0, { rule: verdict.rule, tier: verdict.tier, reason: verdict.reason }) };
    default:
      return assertNever(verdict, 'verdict');
  }
}

/** An attempt claimed this call and never told how it ended. */
async function admitInterrupted(ctx: CallContext, proposal: Proposal, known: CallRow): Promise<Admission> {
  const repeatable = (proposal.tool.kind === 'read' || proposal.tool.idempotent) && proposal.tool.tool_hash === known.tool_hash;
  const verdict = repeatable ? judge(ctx, proposal, true) : undefined;
  const grant = grantOf(ctx, known);
  if (verdict?.outcome === 'allow' || (verdict?.outcome === 'approval_required' && grant.pending_id !== undefined)) {
    return {
      type: 'execute',
      claim: await claimCall(ctx, proposal, known.fence, { rule: verdict.rule, tier: verdict.tier, reason: REPEATED, ...grant }),
    };
  }
  const why = verdict === undefined ? 'it is not safe to repeat' : verdict.outcome === 'stop' ? verdict.stop.reason : verdict.reason;
  return answer(await stopUnknown(ctx, known, why));
}

const REPEATED = 'repeated with the same key after an interruption';

/** The tokens that this same claim consumed stay good for it. Nothing when it consumed none: then nobody granted it. */
function grantOf({ found, ledger }: CallContext, known: CallRow): { pending_id?: string; approver?: string; token?: string } {
  const key = idempotencyKey(ledger, known.call_id);
  const votes = (found.waiting?.votes ?? []).filter(({ outcome, used_by }) => outcome === 'approved' && used_by === key);
  if (known.pending_id === null || votes.length === 0) return {};
  return { pending_id: known.pending_id, approver: votes.map((vote) => vote.approver).join(', '), token: tokenArgument(votes.map((vote) => vote.token)) };
}

async function stopUnknown(ctx: CallContext, known: CallRow, why: string): Promise<CallResult> {
  const stop = stopOf('outcome_unknown', `${known.tool} was interrupted and may or may not have happened; ${why}. Look at the system it acts on`, known);
  await ctx.ledger.updateCall(known.call_id, { status: 'stopped', result_status: 'unknown', stop, final: true });
  await ctx.ledger.append({
    ...callFacts(ctx, known, { result: 'unknown', reason: 'outcome_unknown', pending_id: known.pending_id, detail: stop.reason }),
    event_key: eventKey(ctx.ledger, known.call_id, 'allow'),
    outcome: 'allow',
  });
  return { status: 'stopped', stop };
}
