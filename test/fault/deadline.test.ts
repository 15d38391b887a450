import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { temporaryFolder } from '../support/index.ts';
import { startOwnServer, type OwnServer } from '../support/own-server.ts';
import { Parts, pendingOf, SEND } from './parts.ts';

const TTL = 4;
const config = `approvals: { ttl_seconds: ${TTL} }\n`;

let server: OwnServer;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let parts: Parts;
beforeAll(async () => {
  folder = await temporaryFolder();
  server = await startOwnServer(folder.path);
  parts = await Parts.start({ config, temporal: server.environment });
});
afterAll(async () => {
  await parts.close();
  await server.kill();
  await folder.remove();
});

const afterDeadline = (expiresAt: string): Promise<void> => sleep(Math.max(0, new Date(expiresAt).getTime() - Date.now()) + 300);

test('worker stopped, TTL passes, approval sent after the deadline, worker started: approval_timeout and no effect', async () => {
  const run = await parts.run([SEND]);
  await parts.stop('worker');
  await afterDeadline(run.pending[0]?.expires_at ?? '');
  await expect(parts.as('approver').decide(pendingOf(run), { outcome: 'approved' })).rejects.toMatchObject({ code: 'decision_late' });
  await parts.startWorker();
  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'approval_timeout' });
  expect(await parts.effects(run.run_id)).toEqual([]);
});

test('worker stopped, approval in time, Temporal restarted, worker started after the deadline: executed once', async () => {
  const run = await parts.run([SEND]);
  await parts.stop('worker');
  expect(await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' })).toMatchObject({ status: 'accepted' });
  await server.kill();
  await afterDeadline(run.pending[0]?.expires_at ?? '');
  await server.restart();
  await parts.startWorker();
  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'completed' });
  expect(await parts.effects(run.run_id)).toHaveLength(1);
});

test('an approval that is committed while Temporal is down is delivered when it is back', async () => {
  const run = await parts.run([SEND]);
  await server.kill();
  expect(await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' })).toMatchObject({ status: 'accepted' });
  await server.restart();
  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'completed' });
  expect(await parts.effects(run.run_id)).toHaveLength(1);
});

test.each([-300_000, 300_000])('a clock of API and worker that is off by %i ms changes no outcome', async (skew) => {
  const clock = { NODE_OPTIONS: `--import ${new URL('./skew.mjs', import.meta.url).href}`, HOLDPOINT_TEST_SKEW_MS: String(skew) };
  await parts.stop('worker');
  await parts.stop('serve');
  await parts.startServe(clock);
  await parts.startWorker(clock);

  const approved = await parts.run([SEND]);
  expect(await parts.as('approver').decide(pendingOf(approved), { outcome: 'approved' })).toMatchObject({ status: 'accepted' });
  expect(await parts.stopped(approved.run_id)).toMatchObject({ stop_reason: 'completed' });

  const silent = await parts.run([SEND]);
  const askedAt = Date.now();
  expect(await parts.stopped(silent.run_id)).toMatchObject({ stop_reason: 'approval_timeout' });
  expect(Date.now() - askedAt).toBeGreaterThan((TTL - 1) * 1_000);
  await expect(parts.as('approver').decide(pendingOf(silent), { outcome: 'approved' })).rejects.toMatchObject({ code: 'decision_late' });
  expect(await parts.effects(silent.run_id)).toEqual([]);
});

test('the clock of this test is a real one: a skewed process really sees another time', async () => {
  const { execFile } = await import('node:child_process');
  const { promisify } = await import('node:util');
  const env = { ...process.env, HOLDPOINT_TEST_SKEW_MS: '300000' };
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--import', fileURLToPath(new URL('./skew.mjs', import.meta.url)), '-e', 'console.log(Date.now())'],
    { env },
  );
  expect(Number(stdout) - Date.now()).toBeGreaterThan(290_000);
});
