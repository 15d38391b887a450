/** The ways a judgement ends: stopped, denied, claimed. Each writes its audit event in the same transaction. */
import type { CallResult, Stop } from '../core/run-contract.ts';
import { type CallContext, callFacts, type Claim, eventKey, idempotencyKey, type Proposal, refuseCall, stopOf } from './call-context.ts';
import type { Rule } from './judge.ts';

/** `3.2` = the second call of step 3. */
export function positionOf(callId: string): [step: number, position: number] {
  const [step, position] = callId.split('.').map(Number);
  return [step ?? 0, position ?? 0];
}

/** Kill switch or budget: the run ends here. */
export async function stopCall(ctx: CallContext, proposal: Proposal, stop: Stop): Promise<CallResult> {
  await ctx.ledger.updateCall(ctx.input.call_id, { status: 'stopped', stop, final: true });
  await ctx.ledger.append({
    ...callFacts(
      ctx,
      { tool: proposal.tool.name, tool_hash: proposal.tool.tool_hash, args_hash: proposal.args_hash },
      { reason: stop.stop_reason, rule: stop.budget ?? stop.rule ?? null, detail: stop.reason },
    ),
    event_key: eventKey(ctx.ledger, ctx.input.call_id, `deny/${stop.stop_reason}`),
    outcome: 'deny',
  });
  return { status: 'stopped', stop };
}

export async function denyCall(ctx: CallContext, proposal: Proposal, rule: Rule, reserved: boolean): Promise<CallResult> {
  const stop = stopOf('policy_denied', rule.reason, { call_id: ctx.input.call_id, tool: proposal.tool.name }, rule.rule);
  await ctx.ledger.append({
    ...callFacts(
      ctx,
      { tool: proposal.tool.name, tool_hash: proposal.tool.tool_hash, args_hash: proposal.args_hash },
      {
        reason: 'policy_denied',
        rule: rule.rule,
        tier: rule.tier,
        detail: rule.reason,
      },
    ),
    event_key: eventKey(ctx.ledger, ctx.input.call_id, 'deny'),
    outcome: 'deny',
  });
  return refuseCall(ctx.ledger, ctx.loaded, { call_id: ctx.input.call_id, args_hash: proposal.args_hash }, stop, reserved);
}

interface ClaimFacts {
  rule: string;
  tier: string;
  reason: string;
  pending_id?: string;
  approver?: string;
  token?: string;
}

/** Writes the claim: this attempt's fence, and for a write the event that says it began. */
export async function claimCall(ctx: CallContext, proposal: Proposal, fenceBefore: number, why: ClaimFacts): Promise<Claim> {
  const { ledger, input } = ctx;
  const fence = fenceBefore + 1;
  await ledger.updateCall(input.call_id, { status: 'executing', fence });
  const facts = callFacts(
    ctx,
    { tool: proposal.tool.name, tool_hash: proposal.tool.tool_hash, args_hash: proposal.args_hash },
    {
      rule: why.rule,
      tier: why.tier,
      reason: why.reason,
      pending_id: why.pending_id ?? null,
      approver: why.approver ?? null,
    },
  );
  if (proposal.tool.kind === 'write') {
    await ledger.append({
      ...facts,
      detail: fence === 1 ? null : `attempt ${fence}`,
      event_key: eventKey(ledger, input.call_id, `execution_started/${fence}`),
      outcome: 'execution_started',
    });
  }
  return {
    tool: proposal.tool,
    args: proposal.value,
    args_hash: proposal.args_hash,
    fence,
    idempotency_key: idempotencyKey(ledger, input.call_id),
    approval_token: why.token,
    facts,
  };
}

/** What a tool gets as `approval_token`: the token, or a JSON array of them. */
export function tokenArgument(tokens: readonly string[]): string {
  const [first] = tokens;
  return tokens.length === 1 && first !== undefined ? first : JSON.stringify(tokens);
}
