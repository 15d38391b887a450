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
 * The budget that stands against what comes next, or undefined. Steps and calls are places: one more is refused at the limit,
 * one that has its place already only beyond it (the limit was lowered meanwhile). Seconds and dollars are spent at the limit.
 *
 * @param next `step` and `call` ask for one more; `granted` is a call that has its place already
 */
export function exhaustedBudget(budgets: Budgets, usage: Usage, next: 'step' | 'call' | 'granted'): ExhaustedBudget | undefined {
  const asked: [keyof Budgets, used: number, hasPlace: boolean][] = [
    ['max_steps', usage.steps, next !== 'step'],
    ['max_tool_calls', usage.tool_calls, next !== 'call'],
    ['max_seconds', usage.active_seconds, false],
    ['max_usd', usage.usd, false],
  ];
  for (const [budget, used, hasPlace] of asked) {
    const limit = budgets[budget];
    // Written so that a number that is none counts as exhausted.
    if (limit !== undefined && !(hasPlace ? used <= limit : used < limit)) return { budget, limit, used };
  }
  return undefined;
}
