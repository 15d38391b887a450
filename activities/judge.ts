/** Kill switch, budgets, policy: asked for every call, and again before a granted one executes. */
import { exhaustedBudget } from '../core/budget.ts';
import { evaluatePolicy, votesNeeded } from '../core/policy.ts';
import { hasConditions, policyCall } from '../core/policy-facts.ts';
import type { Stop } from '../core/run-contract.ts';
import { type CallContext, type Proposal, stopOf } from './call-context.ts';
import type { EngagedControl, Hashing, LoadedPolicy, RequestRow, RunLedger, RunRow } from './ports.ts';

export interface Rule {
  readonly rule: string;
  readonly reason: string;
  readonly tier: string;
  readonly quorum: number;
  readonly ttl_seconds: number;
}

export type Verdict = ({ outcome: 'allow' | 'approval_required' | 'deny' } & Rule) | { outcome: 'stop'; stop: Stop };

type Judged = Pick<Proposal, 'tool' | 'value'>;

/** @param reserved true when this call has its place in the budget already */
export function judge(ctx: CallContext, { tool, value }: Judged, reserved: boolean): Verdict {
  const { ledger, run, loaded } = ctx;
  const about = { call_id: ctx.input.call_id, tool: tool.name };
  const switched = switchInWords(loaded, ctx.found.engaged);
  if (switched) return { outcome: 'stop', stop: stopOf('kill_switch', switched, about) };
  const exhausted = exhaustedBudget(loaded.policy.budgets, run.usage, reserved ? 'granted' : 'call');
  if (exhausted) {
    return {
      outcome: 'stop',
      stop: { ...stopOf('budget_exceeded', `${exhausted.budget}: ${exhausted.used} of ${exhausted.limit} used`, about), budget: exhausted.budget },
    };
  }
  const call = policyCall({ run_id: ledger.run_id, run, tool, args: value, reserved, now: ledger.now() });
  return evaluatePolicy(loaded.policy, call, loaded.conditions);
}

/** Why the kill switch stops this, or undefined. Not asked when the file disarms it. */
export async function engagedSwitch(ledger: RunLedger, loaded: LoadedPolicy, run: RunRow, tool?: string): Promise<string | undefined> {
  return loaded.policy.controls.kill_switch.enabled ? switchInWords(loaded, await ledger.engagedControl(run.agent, tool)) : undefined;
}

function switchInWords({ policy }: LoadedPolicy, engaged: EngagedControl | undefined): string | undefined {
  if (!policy.controls.kill_switch.enabled) return undefined;
  return engaged && `the kill switch is engaged for ${engaged.scope}${engaged.reason ? `: ${engaged.reason}` : ''}`;
}

/** Votes that the policy in force asks for this request; never fewer than when it was made. */
export async function requiredQuorum({ ledger, hashing }: Books, loaded: LoadedPolicy, run: RunRow, request: RequestRow): Promise<number> {
  const tool = { name: request.tool, kind: request.kind, idempotent: request.idempotent, tier: request.tool_tier ?? undefined };
  const args = hasConditions(loaded.policy) ? await storedArguments({ ledger, hashing }, request) : undefined;
  const call = policyCall({ run_id: ledger.run_id, run, tool, args, reserved: true, now: ledger.now() });
  return votesNeeded(evaluatePolicy(loaded.policy, call, loaded.conditions), request.quorum);
}

/** What reading stored arguments takes. */
export interface Books {
  readonly ledger: RunLedger;
  readonly hashing: Hashing;
}

/** Undefined when they were erased, or are not the ones that were hashed: then conditions on them ask. */
async function storedArguments({ ledger, hashing }: Books, request: RequestRow): Promise<unknown> {
  const canonical = await ledger.arguments(request.args_hash);
  try {
    const value: unknown = canonical === undefined ? undefined : JSON.parse(canonical);
    return value !== undefined && hashing.argsHash(request.tool, value) === request.args_hash ? value : undefined;
  } catch {
    return undefined;
  }
}
