/** Kill switch, budgets, policy: asked for every call, and again before a granted one executes. */
import { exhaustedBudget } from '../core/budget.ts';
import { evaluatePolicy } from '../core/policy.ts';
import type { Stop } from '../core/run-contract.ts';
import { type CallContext, stopOf } from './call-context.ts';
import type { LoadedPolicy, RegisteredTool, RunLedger, RunRow } from './ports.ts';

export interface Rule {
  readonly rule: string;
  readonly reason: string;
  readonly tier: string;
  readonly quorum: number;
  readonly ttl_seconds: number;
}

export type Verdict = ({ outcome: 'allow' | 'approval_required' | 'deny' } & Rule) | { outcome: 'stop'; stop: Stop };

/** @param reserved true when this call has its place in the budget already */
export async function judge(ctx: CallContext, tool: RegisteredTool, reserved: boolean): Promise<Verdict> {
  const { ledger, run, loaded } = ctx;
  const about = { call_id: ctx.input.call_id, tool: tool.name };
  const switched = await engagedSwitch(ledger, loaded, run, tool.name);
  if (switched) return { outcome: 'stop', stop: stopOf('kill_switch', switched, about) };
  const exhausted = exhaustedBudget(loaded.policy.budgets, run.usage, reserved ? 'granted' : 'call');
  if (exhausted) {
    return {
      outcome: 'stop',
      stop: { ...stopOf('budget_exceeded', `${exhausted.budget}: ${exhausted.used} of ${exhausted.limit} used`, about), budget: exhausted.budget },
    };
  }
  return evaluatePolicy(loaded.policy, { tool: tool.name, kind: tool.kind, verified: run.registered });
}

/** Why the kill switch stops this, or undefined. Not asked when the file disarms it. */
export async function engagedSwitch(ledger: RunLedger, loaded: LoadedPolicy, run: RunRow, tool?: string): Promise<string | undefined> {
  if (!loaded.policy.controls.kill_switch.enabled) return undefined;
  const engaged = await ledger.engagedControl(run.agent, tool);
  return engaged && `the kill switch is engaged for ${engaged.scope}${engaged.reason ? `: ${engaged.reason}` : ''}`;
}

/** Votes that the policy in force asks for this request; never fewer than when it was made. */
export function requiredQuorum(loaded: LoadedPolicy, run: RunRow, request: { tool: string; kind: 'read' | 'write'; quorum: number }): number {
  const rule = evaluatePolicy(loaded.policy, { tool: request.tool, kind: request.kind, verified: run.registered });
  return Math.max(request.quorum, rule.outcome === 'approval_required' ? rule.quorum : 1);
}
