/**
 * One error class and one table of codes. A code is part of the public contract: it is the problem type of the HTTP
 * API, the `type` of a Temporal failure, the reason in a log line and the exit code of the command line.
 */

interface ErrorRow {
  /** HTTP status of the API's problem document. */
  readonly status: number;
  /** Exit code of the command line. */
  readonly exit: number;
  /** True when the same request may succeed later without being changed. */
  readonly retryable: boolean;
  readonly title: string;
}

const row = (status: number, exit: number, title: string, retryable = false): ErrorRow => ({ status, exit, title, retryable });

/** Every error code of the product. Anchors in `docs/errors.md` are the codes themselves. */
export const ERROR_TABLE = {
  usage: row(400, 2, 'The command or request is not of the expected form'),
  invalid_config: row(422, 2, 'holdpoint.yaml cannot be used'),
  invalid_run: row(422, 2, 'The run file cannot be used'),
  invalid_request: row(400, 2, 'The request body cannot be used'),
  body_too_large: row(413, 2, 'The request body is too large'),
  unauthenticated: row(401, 4, 'No valid API key was given'),
  forbidden: row(403, 4, 'This principal may not do that'),
  not_eligible: row(403, 4, 'This approver may not decide this request'),
  not_found: row(404, 5, 'There is nothing with that id'),
  already_decided: row(200, 0, 'The same decision was recorded before'),
  decision_conflict: row(409, 1, 'Another decision was recorded before'),
  request_closed: row(409, 1, 'The request is closed'),
  decision_late: row(410, 6, 'The decision came after the deadline'),
  args_mismatch: row(409, 1, 'The stored arguments are not the ones the request was made for'),
  idempotency_conflict: row(409, 1, 'The idempotency key was used for another request'),
  run_stopped: row(409, 1, 'The run has ended'),
  kill_switch_disarmed: row(409, 1, 'The kill switch is disabled in holdpoint.yaml'),
  server_unreachable: row(503, 7, 'The server cannot be reached', true),
  temporal_unreachable: row(503, 7, 'The Temporal server cannot be reached', true),
  database_unreachable: row(503, 7, 'The database cannot be reached', true),
  already_running: row(409, 1, 'Another stack uses this state directory'),
  missing_part: row(500, 1, 'A part that is needed is not there'),
  run_not_bound: row(503, 1, 'The start of the run is not recorded yet', true),
  audit_broken: row(500, 1, 'The audit trail does not verify'),
  internal: row(500, 1, 'Something failed inside'),
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERROR_TABLE;

const BRAND = Symbol.for('holdpoint.error');

/**
 * The only error that the product throws on purpose.
 *
 * @param code row of {@link ERROR_TABLE}
 * @param message what is wrong, with the ids that let an operator act
 * @param details JSON values that a program may want (ids, line and column, the first decision, ...)
 */
export class HoldpointError extends Error {
  readonly code: ErrorCode;
  readonly details: Readonly<Record<string, unknown>>;
  /** What to do next: one command or one sentence. */
  readonly hint: string | undefined;
  readonly [BRAND] = true;

  constructor(code: ErrorCode, message: string, options: { details?: Record<string, unknown>; hint?: string; cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'HoldpointError';
    this.code = code;
    this.details = options.details ?? {};
    this.hint = options.hint;
  }
}

/** True for every {@link HoldpointError}, also for one of another module instance or realm. */
export function isHoldpointError(error: unknown): error is HoldpointError {
  return typeof error === 'object' && error !== null && BRAND in error;
}

/** The message of anything that was thrown. */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}

/** Closes a `switch` over a union: a new member becomes a compile error here, an unknown value at run time a refusal. */
export function assertNever(value: never, what = 'value'): never {
  throw new HoldpointError('internal', `unknown ${what}: ${JSON.stringify(value)}`);
}
