/** The HTTP API. Routes only: what they do is beside, in files named for it. */
import { type Context, Hono } from 'hono';
import { bodyLimit } from 'hono/body-limit';
import { methodNotAllowed } from 'hono/method-not-allowed';
import { z } from 'zod';
import type { CheckpointFile } from '../adapters/checkpoint.ts';
import { ControlRequest, DecisionRequest, RunFile } from '../core/contracts.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { isStorable } from '../core/text.ts';
import { AUDIT_OUTCOMES } from '../core/words.ts';
import { createSigner } from '../adapters/tokens.ts';
import { auditPage, type AuditReading, auditReport, exportAudit } from './audit.ts';
import { listControls, notifyWaiting, setControl } from './controls.ts';
import { decide } from './decisions.ts';
import type { Delivery } from './delivery.ts';
import { type Env, headers, hostGuard, MAX_BODY, onError, problemResponse, readBody, readQuery, requireRole } from './http.ts';
import { authenticate } from './identities.ts';
import type { ServerContext } from './ports.ts';
import { recordedCalls } from './recorded-calls.ts';
import { getApproval, listApprovals } from './requests.ts';
import { getRun, listRuns } from './run-view.ts';
import type { RunWatch } from './run-watch.ts';
import { cancelRun, startRun } from './runs.ts';
import { createTurns } from './turns.ts';

/** What the routes need besides the context. */
export interface AppParts {
  readonly delivery: Delivery;
  readonly watch: RunWatch;
  readonly checkpoints: CheckpointFile;
  /** Address that the server listens on: decides which Host headers are answered. */
  readonly host: string;
}

const id = z.string().min(1).max(200).refine(isStorable, 'no NUL');
const limit = (fallback: number, max: number): z.ZodType<number> => z.coerce.number().int().min(1).max(max).default(fallback);
const seconds = z.coerce.number().min(0).max(60).optional();

const StartQuery = z.strictObject({ wait: seconds });
const RunQuery = z.strictObject({ wait: seconds, until: z.enum(['settled', 'stopped']).default('settled') });
const RunsQuery = z.strictObject({ status: z.enum(['running', 'waiting', 'stopped']).optional(), limit: limit(50, 500) });
const ApprovalsQuery = z.strictObject({
  status: z.enum(['open', 'approved', 'denied', 'timed_out', 'cancelled', 'superseded']).optional(),
  run: id.optional(),
  limit: limit(50, 200),
});
const since = z
  .union([z.iso.datetime({ offset: true }), z.iso.date()])
  .transform((text) => new Date(text))
  .optional();
const cursor = z.string().max(1000).optional();
const AuditQuery = z.strictObject({
  run: id.optional(),
  since,
  tool: id.optional(),
  outcome: z.enum(AUDIT_OUTCOMES).optional(),
  cursor,
  limit: limit(100, 1000),
});
const RecordedCallsQuery = z.strictObject({ run: id.optional(), since, cursor, limit: limit(100, 500) });
const ExportQuery = z.strictObject({ run: id.optional() });
const IdempotencyKey = z.string().regex(/^[\x21-\x7e]{1,200}$/, 'Idempotency-Key: 1 to 200 visible ASCII characters');

export function createApp(context: ServerContext, parts: AppParts): Hono<Env> {
  const app = new Hono<Env>();
  app.use(headers);
  app.use(hostGuard(parts.host));
  app.use(
    methodNotAllowed({
      app,
      onMethodNotAllowed: (c, methods) => {
        c.header('Allow', methods.join(', '));
        return problemResponse(c, new HoldpointError('usage', `${c.req.method} is not possible on ${c.req.path}`), 405);
      },
    }),
  );
  app.use(
    bodyLimit({ maxSize: MAX_BODY, onError: (c) => problemResponse(c, new HoldpointError('body_too_large', `the body has more than ${MAX_BODY} bytes`)) }),
  );
  app.onError(onError(context.log));
  app.notFound((c) => problemResponse(c, new HoldpointError('not_found', `there is nothing at ${c.req.method} ${c.req.path.slice(0, 200)}`)));
  app.get('/healthz', async (c) => {
    await context.pool.query('SELECT 1');
    return c.json({ ok: true });
  });
  app.get('/.well-known/jwks.json', (c) => c.json({ keys: context.keys.trusted }));
  app.use('/v1/*', async (c, next) => {
    c.set('principal', await authenticate(context.pool, c.req.header('Authorization')));
    await next();
  });
  app.get('/v1/whoami', (c) => {
    const { principal, roles } = c.get('principal');
    return c.json({ principal, roles });
  });
  runRoutes(app, context, parts);
  approvalRoutes(app, context, parts);
  controlRoutes(app, context);
  auditRoutes(app, context, parts);
  return app;
}

/** The id in the address. One that the database cannot even be asked for is nobody's. */
function idOf(c: Context<Env>): string {
  const found = id.safeParse(c.req.param('id'));
  if (found.success) return found.data;
  throw new HoldpointError('not_found', `there is nothing at ${c.req.method} ${c.req.path.slice(0, 200)}`);
}

function runRoutes(app: Hono<Env>, context: ServerContext, { watch }: AppParts): void {
  app.post('/v1/runs', async (c) => {
    const { principal } = requireRole(c, 'operator');
    const { wait = 0 } = readQuery(c, StartQuery);
    const key = IdempotencyKey.optional().safeParse(c.req.header('Idempotency-Key'));
    if (!key.success) throw new HoldpointError('invalid_request', key.error.issues[0]?.message ?? 'Idempotency-Key');
    const input = await readBody(c, RunFile, 'invalid_run');
    const runId = await startRun(context, principal, input, key.data);
    return c.json(await watch.wait(runId, () => getRun(context, runId), 'settled', wait * 1000, c.req.raw.signal), 201, { Location: `/v1/runs/${runId}` });
  });
  app.get('/v1/runs', async (c) => c.json({ runs: await listRuns(context, readQuery(c, RunsQuery)) }));
  app.get('/v1/runs/:id', async (c) => {
    const { wait = 0, until } = readQuery(c, RunQuery);
    const runId = idOf(c);
    return c.json(await watch.wait(runId, () => getRun(context, runId), until, wait * 1000, c.req.raw.signal));
  });
  app.post('/v1/runs/:id/cancel', async (c) => {
    requireRole(c, 'operator');
    return c.json(await cancelRun(context, idOf(c)), 202);
  });
}

function approvalRoutes(app: Hono<Env>, context: ServerContext, { delivery }: AppParts): void {
  const signer = createSigner(context.keys);
  app.get('/v1/approvals', async (c) => c.json({ approvals: await listApprovals(context.pool, context.policy, readQuery(c, ApprovalsQuery)) }));
  app.get('/v1/approvals/:id', async (c) => c.json(await getApproval(context.pool, context.policy, idOf(c))));
  app.post('/v1/approvals/:id/decision', async (c) => {
    const { outcome, reason } = await readBody(c, DecisionRequest, 'invalid_request');
    const decided = await decide(context, signer, { principal: c.get('principal'), pending_id: idOf(c), outcome, reason });
    if (decided.toDeliver) delivery.deliverSoon(decided.toDeliver);
    return c.json(decided.answer);
  });
}

function controlRoutes(app: Hono<Env>, context: ServerContext): void {
  app.get('/v1/controls', async (c) => c.json(await listControls(context)));
  app.post('/v1/controls', async (c) => {
    const { principal } = requireRole(c, 'operator');
    const control = await setControl(context, principal, await readBody(c, ControlRequest, 'invalid_request'));
    notifyWaiting(context, control.scope).catch((error: unknown) =>
      context.log.warn({ error: messageOf(error) }, 'waiting runs could not be told of the kill switch'),
    );
    return c.json(control);
  });
}

/** Snapshots of the whole trail at once, of the 20 connections that there are. */
const SNAPSHOTS = 2;

function auditRoutes(app: Hono<Env>, context: ServerContext, { checkpoints }: AppParts): void {
  const turns = createTurns(SNAPSHOTS);
  const reading = (c: Context<Env>): AuditReading => ({ context, file: checkpoints, turns, signal: c.req.raw.signal });
  app.get('/v1/audit', async (c) => c.json(await auditPage(context.pool, readQuery(c, AuditQuery))));
  app.get('/v1/audit/calls', async (c) => c.json(await recordedCalls(context.pool, readQuery(c, RecordedCallsQuery))));
  app.get('/v1/audit/verify', async (c) => c.json(await auditReport(reading(c))));
  app.get('/v1/audit/export', async (c) => {
    const { run } = readQuery(c, ExportQuery);
    const type = { 'Content-Type': 'application/x-ndjson' };
    // The answer to HEAD has no body that anybody would read to its end.
    return c.req.method === 'HEAD' ? c.body(null, 200, type) : c.body(await exportAudit(reading(c), run), 200, type);
  });
}
