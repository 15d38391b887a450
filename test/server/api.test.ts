import { request as httpRequest } from 'node:http';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { HoldpointClient } from '../../client/index.ts';
import type { Problem } from '../../client/types.ts';
import { ERROR_TABLE, type HoldpointError } from '../../core/errors.ts';
import { readServerConfig } from '../../server/config.ts';
import { appendEvents, makeRequest, startTestService, type TestService } from './harness.ts';

let t: TestService;
beforeAll(async () => {
  t = await startTestService({ approvers: 1 });
});
afterAll(() => t.close());

interface Answer {
  status: number;
  headers: Record<string, string | string[] | undefined>;
  body: string;
}

/** Raw HTTP: `fetch` would mend the Host header and refuse odd methods. */
function send(method: string, path: string, options: { headers?: Record<string, string>; body?: string | Buffer; as?: string | null } = {}): Promise<Answer> {
  const authorization = options.as === null ? {} : { Authorization: `Bearer ${options.as ?? t.operator.key}` };
  return new Promise((resolve, reject) => {
    const call = httpRequest(`${t.service.url}${path}`, { method, headers: { ...authorization, ...options.headers } }, (response) => {
      const parts: Buffer[] = [];
      response.on('data', (part: Buffer) => parts.push(part));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers, body: Buffer.concat(parts).toString('utf8') }));
    });
    call.on('error', reject);
    call.end(options.body);
  });
}

function problemOf(answer: Answer): Problem {
  expect(answer.headers['content-type']).toBe('application/problem+json');
  const problem = JSON.parse(answer.body) as Problem;
  expect(problem).toMatchObject({ type: `urn:holdpoint:error:${problem.code}`, title: ERROR_TABLE[problem.code].title, status: answer.status });
  expect(answer.body).not.toMatch(/node_modules|\.ts:\d|at async/);
  return problem;
}

const RUN = { agent: 'support', requester: 'rita', planner: { type: 'script', calls: [] } };

test('without a key, with an unknown one, or one that was taken away nothing is answered but health and public keys', async () => {
  for (const as of [null, 'hp_' + 'x'.repeat(43), 'nonsense', `hp_${"' OR 1=1 --".repeat(4)}`]) {
    const answer = await send('GET', '/v1/whoami', { as });
    expect(problemOf(answer)).toMatchObject({ code: 'unauthenticated', status: 401 });
    expect(answer.headers['www-authenticate']).toContain('Bearer');
  }
  expect((await send('GET', '/healthz', { as: null })).status).toBe(200);
  expect(JSON.parse((await send('GET', '/.well-known/jwks.json', { as: null })).body)).toEqual({ keys: t.service.context.keys.trusted });
  await t.admin.query(`UPDATE api_keys SET active = false WHERE principal = 'audrey'`);
  expect((await send('GET', '/v1/whoami', { as: t.auditor.key })).status).toBe(401);
  await t.admin.query(`UPDATE api_keys SET active = true WHERE principal = 'audrey'`);
  expect(await t.auditor.client.whoami()).toEqual({ principal: 'audrey', roles: ['auditor'] });
});

test('each role can do its own and nothing else', async () => {
  const made = await makeRequest(t);
  const codes = async (client: HoldpointClient): Promise<(string | undefined)[]> =>
    Promise.all(
      [client.startRun(RUN as never), client.setControl({ engaged: false }), client.cancelRun(made.run_id), client.listRuns(), client.audit()].map((call) =>
        call.then(
          () => undefined,
          (error: HoldpointError) => error.code,
        ),
      ),
    );
  expect(await codes(t.auditor.client)).toEqual(['forbidden', 'forbidden', 'forbidden', undefined, undefined]);
  expect(await codes(t.approvers[0]!.client)).toEqual(['forbidden', 'forbidden', 'forbidden', undefined, undefined]);
  expect((await codes(t.operator.client)).slice(0, 2)).toEqual([undefined, undefined]);
  await expect(t.operator.client.decide(made.pending_id, { outcome: 'approved' })).rejects.toMatchObject({ code: 'not_eligible' });
});

test('a path that is not there and a method that is not possible are problems', async () => {
  expect(problemOf(await send('GET', '/nothing'))).toMatchObject({ code: 'not_found' });
  expect(problemOf(await send('GET', '/v1/nothing'))).toMatchObject({ code: 'not_found' });
  const answer = await send('DELETE', '/v1/runs');
  expect(problemOf(answer)).toMatchObject({ code: 'usage', status: 405 });
  expect(answer.headers['allow']).toContain('POST');
});

test('a body that is no JSON, not UTF-8, too large, too deep or unstorable is refused with the reason', async () => {
  const post = async (body: string | Buffer): Promise<Problem> => problemOf(await send('POST', '/v1/runs', { body }));
  expect(await post('{"agent":')).toMatchObject({ code: 'invalid_request' });
  expect(await post('')).toMatchObject({ code: 'invalid_request' });
  expect(await post(Buffer.from([0x22, 0xff, 0x22]))).toMatchObject({ code: 'invalid_request' });
  expect(await post(JSON.stringify({ ...RUN, goal: 'x'.repeat(1_100_000) }))).toMatchObject({ code: 'body_too_large', status: 413 });
  expect(await post('['.repeat(200_000) + ']'.repeat(200_000))).toMatchObject({ code: 'invalid_request' });
  expect((await post(JSON.stringify({ ...RUN, goal: 'a\0b' }))).detail).toContain('goal');
  expect((await post('{"agent":"a","requester":"r","planner":{"type":"script","calls":[{"tool":"t","args":{"x":"\\ud800"}}]}}')).detail).toContain(
    'planner.calls[0].args.x',
  );
});

test('a refused request leaves the connection usable for the next, however much it had sent', async () => {
  const body = 'x'.repeat(1_000_000);
  for (const as of [null, t.operator.key, null]) expect((await send('POST', '/v1/nothing', { body, as })).status).toBeGreaterThanOrEqual(401);
  expect((await send('GET', '/healthz')).status).toBe(200);
});

test('a run file that cannot be used is refused with the path of each field', async () => {
  const post = async (body: unknown): Promise<Problem> =>
    problemOf(await send('POST', '/v1/runs', { body: typeof body === 'string' ? body : JSON.stringify(body) }));
  expect(await post({ ...RUN, planner: { type: 'script', calls: [{ args: {} }] } })).toMatchObject({
    code: 'invalid_run',
    status: 422,
    detail: expect.stringContaining('planner.calls[0].tool'),
  });
  expect(await post({ ...RUN, surprise: 1 })).toMatchObject({ code: 'invalid_run', detail: expect.stringContaining('surprise') });
  expect(await post('{"agent":"a","requester":"r","planner":{"type":"script","calls":[]},"__proto__":{"x":1}}')).toMatchObject({ code: 'invalid_run' });
  expect(await post({ ...RUN, agent: '__proto__' })).toMatchObject({ code: 'invalid_run' });
  expect(await post([])).toMatchObject({ code: 'invalid_run' });
});

test('parameters that are wrong are refused with their name', async () => {
  for (const [path, name] of [
    ['/v1/runs?limit=0', 'limit'],
    ['/v1/runs?status=gone', 'status'],
    ['/v1/runs/x?wait=3600', 'wait'],
    ['/v1/approvals?limit=x', 'limit'],
    ['/v1/audit?since=yesterday', 'since'],
    ['/v1/audit?cursor=%00', 'cursor'],
    ['/v1/audit?outcome=nothing', 'outcome'],
    ['/v1/audit?unknown=1', 'unknown'],
  ] as const) {
    expect(problemOf(await send('GET', path)), path).toMatchObject({ code: 'invalid_request', detail: expect.stringContaining(name) });
  }
  expect(problemOf(await send('POST', '/v1/runs', { body: JSON.stringify(RUN), headers: { 'Idempotency-Key': 'a b' } }))).toMatchObject({
    code: 'invalid_request',
  });
});

test('a Host header that is no loopback name is refused, whatever port it has', async () => {
  for (const host of ['evil.example', 'evil.example:7390', '127.0.0.1.evil.example', 'localhost.evil.example:80', '[::2]', '169.254.169.254']) {
    expect(problemOf(await send('GET', '/v1/whoami', { headers: { Host: host } })), host).toMatchObject({ code: 'forbidden', status: 403 });
  }
  expect(problemOf(await send('GET', '/v1/whoami', { headers: { Host: 'a:b:c' } }))).toMatchObject({ code: 'invalid_request', status: 400 });
  for (const host of ['localhost', 'localhost:1', '127.0.0.1', '127.0.0.1:7390', '[::1]:80'])
    expect((await send('GET', '/v1/whoami', { headers: { Host: host } })).status).toBe(200);
});

test('every answer carries a request id and headers that keep browsers from doing something with it', async () => {
  for (const path of ['/healthz', '/v1/whoami', '/nothing']) {
    const { headers } = await send('GET', path, { headers: { 'X-Request-Id': 'abc-1' } });
    expect(headers).toMatchObject({ 'x-request-id': 'abc-1', 'x-content-type-options': 'nosniff', 'cache-control': 'no-store' });
    expect(headers['content-security-policy']).toContain("default-src 'none'");
    expect(headers['access-control-allow-origin']).toBeUndefined();
  }
  expect((await send('GET', '/healthz', { headers: { 'X-Request-Id': 'bad id!' } })).headers['x-request-id']).not.toBe('bad id!');
});

test('a failure inside tells its request id and nothing else', async () => {
  await t.admin.query('ALTER TABLE controls RENAME TO controls_away');
  const answer = await send('GET', '/v1/controls', { headers: { 'X-Request-Id': 'find-me' } });
  await t.admin.query('ALTER TABLE controls_away RENAME TO controls');
  const problem = problemOf(answer);
  expect(problem).toMatchObject({ code: 'internal', status: 500 });
  expect(problem.detail).toContain('find-me');
  expect(answer.body).not.toContain('controls');
});

test('the audit is read in pages without a gap or a double', async () => {
  await appendEvents(t, 'run_paged', 25);
  const seen: number[] = [];
  let cursor: string | undefined;
  do {
    const page = await t.auditor.client.audit({ run: 'run_paged', limit: 10, cursor });
    seen.push(...page.events.map((event) => event.seq));
    cursor = page.next ?? undefined;
  } while (cursor !== undefined);
  expect(seen).toEqual(Array.from({ length: 25 }, (_, index) => index + 1));
  expect((await t.auditor.client.audit({ run: 'run_paged', since: new Date(Date.now() + 3_600_000).toISOString() })).events).toEqual([]);
});

test('the kill switch is engaged and released by an operator, and both are in the audit', async () => {
  const { client } = t.operator;
  expect(await client.setControl({ engaged: true, agent: 'support', reason: 'odd mails' })).toMatchObject({
    scope: 'agent:support',
    engaged: true,
    changed_by: 'olga',
    reason: 'odd mails',
  });
  expect(await client.setControl({ engaged: true })).toMatchObject({ scope: 'global', engaged: true });
  expect(await client.setControl({ engaged: false })).toMatchObject({ scope: 'global', engaged: false });
  expect(await client.controls()).toMatchObject({
    armed: true,
    controls: [
      { scope: 'agent:support', engaged: true },
      { scope: 'global', engaged: false },
    ],
  });
  await client.setControl({ engaged: false, agent: 'support' });
  const { events } = await client.audit({ run: 'system', outcome: 'kill_switch_engaged' });
  expect(events).toMatchObject([{ owner: 'olga', agent: 'support', reason: 'odd mails' }, { owner: 'olga' }]);
  await expect(client.setControl({ engaged: true, agent: 'a', tool: 'b' })).rejects.toMatchObject({ code: 'invalid_request' });
});

test('kill on returns only when no claim is under way any more', async () => {
  const claim = await t.worker.connect();
  await claim.query('BEGIN');
  await claim.query(`SELECT pg_advisory_xact_lock_shared(hashtext('holdpoint-controls'))`);
  let returned = false;
  const killed = t.operator.client.setControl({ engaged: true, tool: 'db.write' }).then(() => {
    returned = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 300));
  expect(returned).toBe(false);
  await claim.query('COMMIT');
  claim.release();
  await killed;
  await t.operator.client.setControl({ engaged: false, tool: 'db.write' });
});

test('a policy that disarms the kill switch refuses to engage it', async () => {
  const disarmed = await startTestService({ policy: 'controls: { kill_switch: { enabled: false } }\n' });
  try {
    await expect(disarmed.operator.client.setControl({ engaged: true })).rejects.toMatchObject({ code: 'kill_switch_disarmed' });
    expect(await disarmed.operator.client.controls()).toEqual({ armed: false, controls: [] });
  } finally {
    await disarmed.close();
  }
});

test('a server that nobody runs is unreachable under its address', async () => {
  const error = await new HoldpointClient({ url: 'http://127.0.0.1:9' }).whoami().then(
    () => undefined,
    (thrown: HoldpointError) => thrown,
  );
  expect(error).toMatchObject({ code: 'server_unreachable', details: { url: 'http://127.0.0.1:9' } });
  expect(error?.message).toContain('http://127.0.0.1:9');
});

test('an environment that cannot work is refused with every variable, and a foreign address only on purpose', () => {
  expect(() => readServerConfig({})).toThrow(/DATABASE_URL.*HOLDPOINT_CONFIG.*HOLDPOINT_KEYS_DIR/s);
  const good = { DATABASE_URL: 'postgres://x', HOLDPOINT_CONFIG: 'a', HOLDPOINT_KEYS_DIR: 'b', HOLDPOINT_JWKS: 'c', HOLDPOINT_CHECKPOINTS_DIR: 'd' };
  expect(readServerConfig(good)).toMatchObject({ host: '127.0.0.1', port: 7390 });
  expect(() => readServerConfig({ ...good, HOLDPOINT_HOST: '0.0.0.0' })).toThrow(/reachable from other machines/);
  expect(readServerConfig({ ...good, HOLDPOINT_HOST: '0.0.0.0', HOLDPOINT_ALLOW_REMOTE: '1' }).host).toBe('0.0.0.0');
  expect(() => readServerConfig({ ...good, PORT: '99999' })).toThrow(/PORT/);
});
