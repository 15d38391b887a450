/** The one place that turns a failure into words and an exit code. */
import { ERROR_TABLE, isHoldpointError, messageOf, type HoldpointError } from '../core/errors.ts';
import type { ChildFailure } from './stack/child.ts';
import { styled, tell } from './output.ts';
import { visible } from './visible.ts';

interface FileProblem {
  file?: string;
  line?: number;
  column?: number;
  message: string;
}

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
  const problems = fileProblems(error);
  if (problems.length > 0) for (const problem of problems) tell(`${styled('red', 'error', process.stderr)}: ${visible(where(problem) + problem.message)}`);
  else tell(`${styled('red', 'error', process.stderr)}: ${visible(error.message, { multiline: true })}`);
  if (error.hint !== undefined) tell(`${styled('dim', 'next', process.stderr)}:  ${visible(error.hint, { multiline: true })}`);
}

function fileProblems(error: HoldpointError): FileProblem[] {
  const problems = error.details.problems;
  return Array.isArray(problems) ? problems.filter((each): each is FileProblem => typeof each === 'object' && each !== null && typeof (each as FileProblem).message === 'string') : [];
}

/** `file:line:column: `, as compilers write it and editors understand it. */
export function where(problem: Omit<FileProblem, 'message'>): string {
  const place = [problem.file, problem.line, problem.column].filter((part) => part !== undefined).join(':');
  return place === '' ? '' : `${place}: `;
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
