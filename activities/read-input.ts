/** What a workflow says, read as strictly as anything from outside: whoever writes to the namespace may call the gateway. */
import { ApplicationFailure } from '@temporalio/common';
import { isMail, type Mail } from '../core/mail.ts';
import type { Stop } from '../core/run-contract.ts';
import { LIMITS, STOP_REASONS } from '../core/words.ts';

/** Largest number that an identifier's part has: nine digits. */
const MAX_STEP = 999_999_999;

/** No retry mends what was sent. */
const unusable = (what: string): ApplicationFailure => ApplicationFailure.nonRetryable(`${what} cannot be used`, 'invalid_request');

/** What is not text would be hashed as one thing and stored as another. */
export function readText(value: unknown, what: string): string {
  if (typeof value !== 'string') throw unusable(what);
  return value.slice(0, LIMITS.text);
}

export function readStep(value: unknown): number {
  if (typeof value !== 'number' || !Number.isInteger(value) || value < 1 || value > MAX_STEP) throw unusable('step');
  return value;
}

export function readStop(value: unknown): Stop {
  if (typeof value !== 'object' || value === null) throw unusable('stop');
  const { stop_reason: given, reason, ...more } = value as Record<string, unknown>;
  const stopReason = STOP_REASONS.find((known) => known === given);
  if (stopReason === undefined) throw unusable('stop_reason');
  const stop: Stop = { stop_reason: stopReason, reason: readText(reason, 'reason') };
  for (const member of ['call_id', 'tool', 'rule', 'budget'] as const) {
    if (more[member] !== undefined) stop[member] = readText(more[member], member);
  }
  return stop;
}

export function readMessages(value: unknown): Mail[] {
  if (!Array.isArray(value)) throw unusable('messages');
  return value.slice(0, LIMITS.batch).filter(isMail);
}

export function readIds(value: unknown): string[] {
  if (!Array.isArray(value)) throw unusable('open');
  return value.slice(0, LIMITS.callsPerStep).filter((id) => typeof id === 'string');
}
