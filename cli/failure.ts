/** The one place that turns a failure into words and an exit code. */
import { ERROR_TABLE, HoldpointError, isHoldpointError, messageOf } from '../core/errors.ts';
import type { Context } from './context.ts';
import type { ChildFailure } from './stack/child.ts';
import { styled, tell } from './output.ts';
import { visible } from './visible.ts';

/**
 * Prints the failure on stderr, as JSON when asked, and tells a parent `up`.
 *
 * @param command how to type a command that reaches the same stack
 * @returns the exit code
 */
export async function reportFailure(error: unknown, json: boolean, command: Context['command']): Promise<number> {
  const known = isHoldpointError(error) ? error : new HoldpointError('internal', messageOf(error), { cause: error });
  if (process.send !== undefined) await sendToParent(known);
  // A bug: in a log, and for who looks for it, where it happened is worth more than the sentence.
  if (known !== error && error instanceof Error && (process.send !== undefined || process.env.LOG_LEVEL === 'debug')) tell(error.stack);
  else if (json)
    tell(
      JSON.stringify({
        error: { code: known.code, message: known.message, ...(known.hint === undefined ? {} : { hint: known.hint }), details: known.details },
      }),
    );
  else tellPerson(known, command);
  return ERROR_TABLE[known.code].exit;
}

function sendToParent(error: HoldpointError): Promise<void> {
  return new Promise((resolve) => {
    if (process.send === undefined || !process.connected) return resolve();
    process.send(asMessage(error), () => resolve());
  });
}

function tellPerson(error: HoldpointError, command: Context['command']): void {
  for (const line of visible(error.message, { multiline: true }).split('\n')) tell(`${styled('red', 'error', process.stderr)}: ${line}`);
  if (error.hint !== undefined) tell(`${styled('dim', 'next', process.stderr)}:  ${visible(ready(error.hint, command), { multiline: true })}`);
}

/** Servers do not know how their stack is reached: `holdpoint pending` becomes what can be copied. */
function ready(hint: string, command: Context['command']): string {
  return hint.replace(/(?<!npx )\bholdpoint (pending|up|audit verify)\b/g, (_, rest: string) => command(rest));
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
