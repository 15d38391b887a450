/** The one place that turns a failure into words and an exit code. */
import { ERROR_TABLE, isHoldpointError, messageOf, type HoldpointError } from '../core/errors.ts';
import type { ChildFailure } from './stack/child.ts';
import { styled, tell } from './output.ts';
import { visible } from './visible.ts';

/** Prints the failure on stderr, as JSON when asked, and tells a parent `up`. @returns the exit code */
export function reportFailure(error: unknown, json: boolean): number {
  if (!isHoldpointError(error)) {
    const text = error instanceof Error && process.env.LOG_LEVEL === 'debug' ? (error.stack ?? error.message) : messageOf(error);
    if (json) tell(JSON.stringify({ error: { code: 'internal', message: text } }));
    else tell(`${styled('red', 'error', process.stderr)}: ${visible(text, { multiline: true })}`);
    return ERROR_TABLE.internal.exit;
  }
  if (process.send !== undefined) process.send(asMessage(error));
  if (json) tell(JSON.stringify({ error: { code: error.code, message: error.message, ...(error.hint === undefined ? {} : { hint: error.hint }), details: error.details } }));
  else tellPerson(error);
  return ERROR_TABLE[error.code].exit;
}

function tellPerson(error: HoldpointError): void {
  tell(`${styled('red', 'error', process.stderr)}: ${visible(error.message, { multiline: true })}`);
  if (error.hint !== undefined) tell(`${styled('dim', 'next', process.stderr)}:  ${visible(error.hint, { multiline: true })}`);
}

function asMessage(error: HoldpointError): ChildFailure {
  return {
    type: 'holdpoint.failure',
    code: error.code,
    message: error.message,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    details: JSON.parse(JSON.stringify(error.details)) as Record<string, unknown>,
  };
}
