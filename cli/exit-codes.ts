/** What a run's end means for the shell. */
import { assertNever } from '../core/errors.ts';
import type { StopReason } from '../core/words.ts';

/** Exit code of `run`. A run that waits has done what it was asked: 0. */
export function exitCodeOf(stopReason: StopReason | 'approval_required' | null): number {
  switch (stopReason) {
    case null:
    case 'completed':
    case 'approval_required':
      return 0;
    case 'approval_denied':
    case 'policy_denied':
      return 3;
    case 'approval_timeout':
    case 'approval_expired_unused':
      return 6;
    case 'budget_exceeded':
    case 'kill_switch':
      return 8;
    case 'cancelled':
      return 9;
    case 'outcome_unknown':
    case 'tool_failed':
    case 'planner_failed':
      return 1;
    default:
      return assertNever(stopReason, 'stop reason');
  }
}

/** `--timeout` passed before the run stopped. */
export const TIMED_OUT = 124;
