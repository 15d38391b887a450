/** HTTP manners: problems for every error, headers, limits, and who may talk to us at all. */
import { randomUUID } from 'node:crypto';
import { RequestError } from '@hono/node-server';
import type { Context, MiddlewareHandler } from 'hono';
import { z } from 'zod';
import type { Problem } from '../client/types.ts';
import { ERROR_TABLE, type ErrorCode, HoldpointError, isHoldpointError, messageOf } from '../core/errors.ts';
import { LIMITS } from '../core/words.ts';
import { isStorable } from '../core/text.ts';
import { isLoopback } from './config.ts';
import type { Log, Principal } from './ports.ts';

export interface Env {
  Variables: { requestId: string; principal: Principal };
}

/** Problem document (RFC 9457). `status` differs from the table's only for what HTTP names itself (405). */
function problemOf(error: HoldpointError, status: number): Problem {
  return {
    type: `urn:holdpoint:error:${error.code}`,
    title: ERROR_TABLE[error.code].title,
    status,
    detail: error.message,
    code: error.code,
    ...(error.hint === undefined ? {} : { hint: error.hint }),
    ...(Object.keys(error.details).length === 0 ? {} : { details: { ...error.details } }),
  };
}

const PROBLEM_TYPE = 'application/problem+json';

export function problemResponse(c: Context, error: HoldpointError, status: number = ERROR_TABLE[error.code].status): Response {
  if (status === 401) c.header('WWW-Authenticate', 'Bearer realm="holdpoint"');
  // A body that nobody read would stand before the next request on this connection.
  if (c.req.raw.body !== null && !c.req.raw.bodyUsed) c.header('Connection', 'close');
  c.header('Content-Type', PROBLEM_TYPE);
  return c.body(JSON.stringify(problemOf(error, status)), status as 400);
}

/** What fails before or behind the routes: mostly an address or Host header that cannot be read. */
export function failureOutside(error: unknown): Response {
  const problem =
    error instanceof RequestError
      ? new HoldpointError('invalid_request', 'the address or the Host header of the request cannot be read')
      : new HoldpointError('internal', 'something failed before the request reached a route');
  const { status } = ERROR_TABLE[problem.code];
  return new Response(JSON.stringify(problemOf(problem, status)), { status, headers: { 'Content-Type': PROBLEM_TYPE, Connection: 'close' } });
}

/** Turns what was thrown into a problem. What we did not throw on purpose is logged whole and told in one word. */
export function onError(log: Log): (error: unknown, c: Context<Env>) => Response {
  return (error, c) => {
    if (isHoldpointError(error) && error.code !== 'internal') return problemResponse(c, error);
    const databaseGone = isConnectionError(error);
    log.error(
      { request_id: c.get('requestId'), path: c.req.path, error: error instanceof Error ? (error.stack ?? error.message) : messageOf(error) },
      'a request failed',
    );
    if (databaseGone)
      return problemResponse(
        c,
        new HoldpointError('database_unreachable', 'the database does not answer', { hint: 'try again; then look at the log of serve' }),
      );
    return problemResponse(c, new HoldpointError('internal', `something failed inside; request ${c.get('requestId') ?? '?'} in the log of serve says what`));
  };
}

/** SQL states 08xxx, 57P0x and 53300, and socket errors. */
function isConnectionError(error: unknown): boolean {
  const code = error instanceof Error && 'code' in error ? String(error.code) : '';
  return /^(08...|57P0.|53300|ECONN\w+|EPIPE|ETIMEDOUT)$/.test(code) || /Connection terminated|timeout exceeded when trying to connect/.test(messageOf(error));
}

export const headers: MiddlewareHandler<Env> = async (c, next) => {
  const given = c.req.header('X-Request-Id');
  const requestId = given !== undefined && /^[A-Za-z0-9_-]{1,64}$/.test(given) ? given : randomUUID();
  c.set('requestId', requestId);
  c.header('X-Request-Id', requestId);
  c.header('X-Content-Type-Options', 'nosniff');
  c.header('Cache-Control', 'no-store');
  c.header('Content-Security-Policy', "default-src 'none'; frame-ancestors 'none'");
  c.header('Referrer-Policy', 'no-referrer');
  c.header('Cross-Origin-Resource-Policy', 'same-origin');
  await next();
};

/** On loopback only loopback names are answered: a foreign name that resolves to us is a web page reaching for the API. */
export function hostGuard(boundHost: string): MiddlewareHandler<Env> {
  return async (c, next) => {
    const name = hostName(c.req.header('Host') ?? '');
    if (isLoopback(boundHost) && !isLoopback(name)) {
      throw new HoldpointError('forbidden', `the Host header ${JSON.stringify(name.slice(0, 100))} is not a name of this machine's loopback`, {
        hint: 'use http://127.0.0.1',
      });
    }
    await next();
  };
}

function hostName(host: string): string {
  const match = /^(\[[0-9a-fA-F:.]+\]|[^:]*)(:\d{1,5})?$/.exec(host);
  return match?.[1] ?? '';
}

const MAX_DEPTH = 100;

/** Body as JSON that the ledger can hold, parsed by `schema`. */
export async function readBody<S extends z.ZodType>(c: Context<Env>, schema: S, code: ErrorCode): Promise<z.output<S>> {
  const bytes = await c.req.arrayBuffer();
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes));
  } catch (error) {
    throw new HoldpointError('invalid_request', `the body is not JSON in UTF-8: ${messageOf(error)}`);
  }
  refuseUnstorable(value);
  const parsed = schema.safeParse(value);
  if (parsed.success) return parsed.data;
  throw new HoldpointError(code, problemsOf(parsed.error), {
    details: { problems: parsed.error.issues.map((issue) => ({ path: pathOf(issue.path), message: issue.message })) },
  });
}

/** NUL and lone surrogates have no place in PostgreSQL's text; depth is limited so that nobody's stack is the limit. */
function refuseUnstorable(root: unknown): void {
  if (typeof root === 'string' && !isStorable(root)) throw unstorable([]);
  // Only what holds something is put aside: a body has room for half a million numbers.
  const stack: { value: object; path: PropertyKey[] }[] = [];
  const visit = (value: unknown, path: readonly PropertyKey[], key: PropertyKey): void => {
    if (typeof value === 'string' && !isStorable(value)) throw unstorable([...path, key]);
    if (typeof value !== 'object' || value === null) return;
    if (path.length >= MAX_DEPTH) throw new HoldpointError('invalid_request', `the body is nested deeper than ${MAX_DEPTH} levels`);
    stack.push({ value, path: [...path, key] });
  };
  if (typeof root === 'object' && root !== null) stack.push({ value: root, path: [] });
  for (let top = stack.pop(); top; top = stack.pop()) {
    const { value, path } = top;
    if (Array.isArray(value)) for (const [index, member] of value.entries()) visit(member, path, index);
    else
      for (const [key, member] of Object.entries(value)) {
        if (!isStorable(key)) throw unstorable(path);
        visit(member, path, key);
      }
  }
}

const unstorable = (path: readonly PropertyKey[]): HoldpointError =>
  new HoldpointError('invalid_request', `${pathOf(path) || 'the body'}: has U+0000 or half a surrogate pair, which cannot be stored`);

/** Query parameters by a schema of strings. */
export function readQuery<S extends z.ZodType>(c: Context<Env>, schema: S): z.output<S> {
  const parsed = schema.safeParse(c.req.query());
  if (parsed.success) return parsed.data;
  throw new HoldpointError('invalid_request', problemsOf(parsed.error));
}

function problemsOf(error: z.ZodError): string {
  return error.issues
    .slice(0, 10)
    .map((issue) => `${pathOf(issue.path) || 'the body'}: ${issue.message}`)
    .join('; ');
}

/** `planner.calls[0].tool` */
function pathOf(path: readonly PropertyKey[]): string {
  return path.map((step, index) => (typeof step === 'number' ? `[${step}]` : `${index === 0 ? '' : '.'}${String(step).slice(0, 80)}`)).join('');
}

/** Largest body: a run file. */
export const MAX_BODY = LIMITS.runFile;

/** @throws HoldpointError `forbidden` */
export function requireRole(c: Context<Env>, role: string): Principal {
  const principal = c.get('principal');
  if (principal.roles.includes(role)) return principal;
  throw new HoldpointError('forbidden', `${principal.principal} has the roles ${principal.roles.join(', ')}; this needs ${role}`);
}
