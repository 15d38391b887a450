/** What authenticated people, web pages and writers to the namespace could try on the service. */
import { writeFile } from 'node:fs/promises';
import { request as httpRequest } from 'node:http';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { CheckpointFile } from '../../adapters/checkpoint.ts';
import { transaction } from '../../adapters/database.ts';
import { newId } from '../../adapters/ids.ts';
import { exportAudit } from '../../server/audit.ts';
import { readIdentities } from '../../server/identities.ts';
import { sweep } from '../../server/sweeper.ts';
import { createTurns } from '../../server/turns.ts';
import { appendEvents, makeRequest, startTestService, type TestService } from './harness.ts';

let t: TestService;
beforeAll(async () => {
  t = await startTestService({ approvers: 1 });
});
afterAll(() => t.close());

function send(method: string, path: string, options: { body?: string; key?: string; abortAfterMs?: number } = {}): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const headers = { Authorization: `Bearer ${options.key ?? t.auditor.key}` };
    const call = httpRequest(`${t.service.url}${path}`, { method, headers, agent: false }, (response) => {
      let body = '';
      response.on('data', (part: Buffer) => (body += part.toString('utf8')));
      response.on('end', () => resolve({ status: response.statusCode ?? 0, body }));
      response.on('error', reject);
    });
    call.on('error', reject);
    if (options.abortAfterMs !== undefined) setTimeout(() => call.destroy(new Error('went away')), options.abortAfterMs);
    call.end(options.body);
  });
}

/** A run that was started past the API, as the gateway leaves it. */
async function unregistered(change: { run_id?: string; first_execution_id?: string; input?: string } = {}): Promise<string> {
  const runId = change.run_id ?? newId('run');
  await t.worker.query(
    `INSERT INTO run_states (run_id, first_execution_id, registered, agent, requester, input, checked_at) VALUES ($1, $2, false, 'unverified', 'x', $3, '2000-01-01')`,
    [runId, change.first_execution_id ?? '00000000-0000-0000-0000-000000000000', change.input ?? '{"goal":"x"}'],
  );
  return runId;
}

test('a run file with characters that no text of the database holds does not keep anybody from listing runs', async () => {
  const input = JSON.stringify({ agent: 'a', requester: 'x', goal: 'g', planner: { type: 'script', calls: [{ tool: 't', args: { a: '\0', b: '\ud800' } }] } });
  const runId = await unregistered({ input });
  const listed = await send('GET', '/v1/runs');
  expect(listed.status).toBe(200);
  expect(listed.body).toContain(runId);
  expect((await send('GET', `/v1/runs/${runId}`)).status).toBe(200);
});

test('NUL and times beyond every calendar in addresses are refused, not failed at', async () => {
  const far = Buffer.from(JSON.stringify(['-271000-01-01T00:00:00.000Z', 'x', 1])).toString('base64url');
  const nul = Buffer.from(JSON.stringify(['2026-01-01T00:00:00.000Z', 'a\0', 1])).toString('base64url');
  const paths = ['/v1/runs/a%00b', '/v1/approvals/a%00b', '/v1/audit?run=a%00', '/v1/audit?tool=a%00', '/v1/approvals?run=a%00', '/v1/audit/export?run=a%00'];
  for (const path of [...paths, `/v1/audit?cursor=${far}`, `/v1/audit?cursor=${nul}`, '/v1/audit?since=0000-01-01']) {
    const { status } = await send('GET', path);
    expect([path, status >= 200 && status < 500]).toEqual([path, true]);
  }
  const decision = await send('POST', '/v1/approvals/a%00b/decision', { key: t.approvers[0]?.key ?? '', body: '{"outcome":"approved"}' });
  expect(decision.status).toBe(404);
});

test('exports that nobody reads, and many at once, leave the database to those who decide', { timeout: 120_000 }, async () => {
  await appendEvents(t, 'run_long', 600);
  const made = await makeRequest(t);
  const before = await send('GET', '/v1/audit/export');
  expect(before.body.length).toBeGreaterThan(200_000);
  for (let round = 0; round < 30; round += 1) await send('HEAD', '/v1/audit/export').catch(() => undefined);
  const leaving = Array.from({ length: 30 }, (_, index) => send('GET', '/v1/audit/export', { abortAfterMs: 5 + index * 3 }).catch(() => undefined));
  await Promise.all(leaving);
  const many = Array.from({ length: 40 }, () => send('GET', '/v1/audit/verify'));
  const startedAt = performance.now();
  const answer = await t.approvers[0]?.client.decide(made.pending_id, { outcome: 'approved' });
  expect(answer?.status).toBe('accepted');
  expect(performance.now() - startedAt).toBeLessThan(5_000);
  for (const { status } of await Promise.all(many)) expect(status).toBe(200);
  await sleep(500);
  const { rows } = await t.admin.query(
    `SELECT count(*)::int AS n FROM pg_stat_activity WHERE application_name = 'holdpoint-serve' AND state LIKE 'idle in transaction%' AND datname = current_database()`,
  );
  expect(rows).toEqual([{ n: 0 }]);
});

test('a connection that the database ends in the middle of a transaction fails that transaction and nothing else', async () => {
  const strays: unknown[] = [];
  const note = (error: unknown): void => void strays.push(error);
  process.on('uncaughtException', note);
  try {
    const broken = transaction(t.serve, async (client) => {
      const { rows } = await client.query<{ pid: number }>('SELECT pg_backend_pid() AS pid');
      await t.admin.query('SELECT pg_terminate_backend($1)', [rows[0]?.pid]);
      await sleep(300);
      await client.query('SELECT 1');
    });
    await expect(broken).rejects.toThrow();
    expect(strays).toEqual([]);
    expect((await t.serve.query('SELECT 1 AS one')).rows).toEqual([{ one: 1 }]);
  } finally {
    process.removeListener('uncaughtException', note);
  }
});

test('an export whose reader stands still while the database goes away breaks off, and the service lives on', async () => {
  await appendEvents(t, 'run_slow', 2_500);
  const strays: unknown[] = [];
  const note = (error: unknown): void => void strays.push(error);
  process.on('uncaughtException', note);
  try {
    const stream = await exportAudit(
      { context: t.service.context, file: new CheckpointFile(t.config.checkpointsDir), turns: createTurns(1), signal: new AbortController().signal },
      undefined,
    );
    const reader = stream.getReader();
    await reader.read();
    await t.admin.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state = 'idle in transaction' AND datname = current_database() AND application_name = 'holdpoint-serve'`,
    );
    await sleep(300);
    const rest = (async () => {
      for (let part = await reader.read(); !part.done; part = await reader.read());
    })();
    await expect(rest).rejects.toThrow();
    expect(strays).toEqual([]);
    expect((await send('GET', '/healthz')).status).toBe(200);
  } finally {
    process.removeListener('uncaughtException', note);
  }
});

test('two principals whose names differ in capitals alone are refused: one person could fill two places of a quorum', async () => {
  const file = join(t.folder, 'twins.json');
  const identities = ['alice', 'Alice'].map((principal, index) => ({ principal, roles: ['approver'], key_sha256: String(index).repeat(64) }));
  await writeFile(file, JSON.stringify({ identities }));
  await expect(readIdentities(file)).rejects.toMatchObject({ code: 'invalid_config' });
});

test('a run with an execution id that Temporal cannot have does not keep the sweeper from the others', async () => {
  for (let index = 0; index < 3; index += 1) await unregistered({ first_execution_id: `no-uuid-${index}` });
  const gone = await unregistered({ first_execution_id: '11111111-2222-4333-8444-555555555555' });
  for (let round = 0; round < 2; round += 1) await sweep(t.service.context, 0).catch(() => undefined);
  const { rows } = await t.admin.query('SELECT stop IS NOT NULL AS stopped FROM run_states WHERE run_id = $1', [gone]);
  expect(rows).toEqual([{ stopped: true }]);
  expect((await t.admin.query(`SELECT 1 FROM run_states WHERE first_execution_id LIKE 'no-uuid-%' AND stop IS NULL`)).rowCount).toBe(0);
});

test('a wide body at the deepest level costs neither seconds nor hundreds of megabytes', async () => {
  const body = `${'['.repeat(98)}${'1,'.repeat(500_000)}1${']'.repeat(98)}`;
  const before = process.memoryUsage().heapUsed;
  let most = before;
  const watch = setInterval(() => (most = Math.max(most, process.memoryUsage().heapUsed)), 1);
  const startedAt = performance.now();
  expect((await send('POST', '/v1/controls', { key: t.operator.key, body })).status).toBe(400);
  clearInterval(watch);
  expect(performance.now() - startedAt).toBeLessThan(2_500);
  expect(process.memoryUsage().heapUsed - before).toBeLessThan(250_000_000);
});
