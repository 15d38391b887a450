import { setTimeout as sleep } from 'node:timers/promises';
import { pino } from 'pino';
import { afterEach, expect, test } from 'vitest';
import { readWorkerConfig } from '../../worker/config.ts';
import { answerHealth, type Checks, type HealthAnswers } from '../../worker/health.ts';

const log = pino({ level: 'silent' });
const open: HealthAnswers[] = [];
afterEach(async () => {
  for (const one of open.splice(0)) await one.close();
});

async function started(checks: Checks): Promise<string> {
  const answers = await answerHealth({ host: '127.0.0.1', port: 0 }, checks, log);
  open.push(answers);
  return answers.url;
}

async function ask(url: string): Promise<[number, unknown]> {
  const response = await fetch(url);
  return [response.status, await response.json()];
}

const well = async (): Promise<void> => {};
const broken = async (): Promise<never> => {
  throw new Error('the password of the database is secret');
};

test('all parts well is 200; otherwise 503 names the parts, and not why', async () => {
  expect(await ask(await started({ worker: well, database: well }))).toEqual([200, { ok: true }]);
  expect(await ask(await started({ worker: well, database: broken, temporal: broken }))).toEqual([503, { ok: false, failing: ['database', 'temporal'] }]);
});

test('a part that does not answer is not well after two seconds, however long it would take', async () => {
  const url = await started({ temporal: () => sleep(60_000, undefined, { ref: false }), database: well });
  const before = performance.now();
  expect(await ask(url)).toEqual([503, { ok: false, failing: ['temporal'] }]);
  expect(performance.now() - before).toBeLessThan(4_000);
});

test('a hundred questions at once and one soon after ask the parts once, a later one asks again', async () => {
  let asked = 0;
  const url = await started({ database: async () => void (asked += 1) });
  await Promise.all(Array.from({ length: 100 }, () => ask(url)));
  await ask(url);
  expect(asked).toBe(1);
  await sleep(1_100);
  await ask(url);
  expect(asked).toBe(2);
});

test('nothing but GET /healthz is there', async () => {
  const url = await started({ database: well });
  expect((await fetch(url, { method: 'HEAD' })).status).toBe(200);
  expect((await fetch(url, { method: 'POST', body: 'x' })).status).toBe(405);
  expect((await fetch(new URL('/', url))).status).toBe(404);
});

test('a port that is taken is already_running, with the way out', async () => {
  const port = Number(new URL(await started({ database: well })).port);
  await expect(answerHealth({ host: '127.0.0.1', port }, {}, log)).rejects.toMatchObject({
    code: 'already_running',
    hint: expect.stringContaining('HOLDPOINT_HEALTH_PORT'),
  });
});

test('without a port nothing listens; the host is loopback unless it is said', () => {
  const env = { DATABASE_URL: 'postgres://a@b/c', HOLDPOINT_CONFIG: 'c', HOLDPOINT_JWKS: 'j' };
  expect(readWorkerConfig(env).health).toBeUndefined();
  expect(readWorkerConfig({ ...env, HOLDPOINT_HEALTH_PORT: '7391' }).health).toEqual({ host: '127.0.0.1', port: 7391 });
  expect(() => readWorkerConfig({ ...env, HOLDPOINT_HEALTH_PORT: 'x' })).toThrow(/HOLDPOINT_HEALTH_PORT/);
});
