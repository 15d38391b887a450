/** Budgets of a run: asked before a step or call is reserved, and again before a granted call executes. */
import type { PolicyFile } from './contracts.ts';
import type { Usage } from './run-contract.ts';

type Budgets = PolicyFile['budgets'];

export interface ExhaustedBudget {
  budget: keyof Budgets;
  limit: number;
  used: number;
}

/**
 * The budget that stands against what comes next, or undefined.
 *
 * @param next `step` and `call` ask for one more; `granted` is a call that has its place already, so its own count is not held against it
 */
export function exhaustedBudget(budgets: Budgets, usage: Usage, next: 'step' | 'call' | 'granted'): ExhaustedBudget | undefined {
  const asked: [keyof Budgets, number, boolean][] = [
    ['max_steps', usage.steps, next === 'step'],
    ['max_tool_calls', usage.tool_calls, next === 'call'],
    ['max_seconds', usage.active_seconds, true],
    ['max_usd', usage.usd, true],
  ];
  for (const [budget, used, counts] of asked) {
    const limit = budgets[budget];
    if (limit !== undefined && counts && !(used < limit)) return { budget, limit, used };
  }
  return undefined;
}
