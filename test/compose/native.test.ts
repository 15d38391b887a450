/** What docker-compose.yml starts, started without containers: the same commands, environment and secrets. */
import { readFile, rm, stat } from 'node:fs/promises';
import { request } from 'node:http';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { HoldpointClient } from '../../client/index.ts';
import { eventually, temporaryFolder } from '../support/index.ts';
import { Door, makeSecrets, NativeStack, query, type Running, writeSecret } from './processes.ts';

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let stack: NativeStack;
let keys: { operator: string; approver: string };
let serve: Running;
let worker: Running;
/** Between the worker and Temporal. */
let door: Door;

beforeAll(async () => {
  folder = await temporaryFolder('holdpoint-compose-');
  keys = await makeSecrets(folder.path);
  const temporal = inject('temporalEnvironment');
  stack = new NativeStack(folder.path, temporal);
  door = await Door.to(temporal.TEMPORAL_ADDRESS ?? '');
  await stack.prepareDatabase();
});
afterAll(async () => {
  await stack.close();
  door.close();
  await rm(stack.home, { recursive: true, force: true });
  await folder.remove();
});

const portOf = (address: string | undefined): string => new URL(address ?? '').port;

test('make-secrets shows the keys once, keeps their hashes, and changes nothing the second time', async () => {
  expect(keys.operator).toMatch(/^hp_[\w-]{43}$/);
  expect(keys.approver).not.toBe(keys.operator);
  const before = await stack.secret('identities');
  expect(before).not.toMatch(/hp_/);
  await expect(makeSecrets(folder.path)).rejects.toThrow(/there already/);
  expect(await stack.secret('identities')).toBe(before);
  expect((await stat(join(folder.path, 'secrets'))).mode & 0o777).toBe(0o700);
});

test('serve and worker refuse a database without the schema, and name the command', async () => {
  // The roles are there, as after a restore from a dump that left the schema out.
  for (const name of ['serve', 'worker'] as const) {
    await stack.asSuperuser(`CREATE ROLE holdpoint_${name} LOGIN PASSWORD '${(await stack.secret(`${name}_db_password`)).trim()}'`);
    await stack.asSuperuser(`GRANT CONNECT ON DATABASE holdpoint TO holdpoint_${name}`);
    const { code, stderr } = await stack.run(name);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/no Holdpoint schema[\s\S]*holdpoint migrate/)]);
    await stack.asSuperuser(`REVOKE CONNECT ON DATABASE holdpoint FROM holdpoint_${name}`);
  }
});

test('an owner who may not touch a role is told by which statement he may', async () => {
  const { code, stderr } = await stack.run('migrate');
  expect([code, stderr]).toEqual([
    4,
    expect.stringMatching(
      /holdpoint_owner may not make or change the roles[\s\S]*GRANT holdpoint_worker, holdpoint_serve TO holdpoint_owner WITH ADMIN OPTION/,
    ),
  ]);
  await stack.asSuperuser('DROP ROLE holdpoint_serve, holdpoint_worker');
  await stack.asSuperuser('ALTER ROLE holdpoint_owner NOCREATEROLE');
  const refused = await stack.run('migrate');
  expect([refused.code, refused.stderr]).toEqual([4, expect.stringMatching(/may not make or change the roles[\s\S]*ALTER ROLE holdpoint_owner CREATEROLE/)]);
  await stack.asSuperuser('ALTER ROLE holdpoint_owner CREATEROLE');
});

test('migrate makes schema and roles for an owner who is no superuser; the second time it changes nothing', async () => {
  const first = await stack.run('migrate');
  expect(first).toMatchObject({ code: 0, stdout: expect.stringMatching(/^Applied migration 1/), stderr: '' });
  expect(await stack.run('migrate')).toMatchObject({ code: 0, stdout: 'The schema is up to date.\n' });
  const rights = await stack.asSuperuser(`SELECT rolname, rolsuper, rolcreaterole FROM pg_roles WHERE rolname ~ '^(holdpoint|temporal)' ORDER BY 1`);
  expect(rights).toEqual([
    { rolname: 'holdpoint_owner', rolsuper: false, rolcreaterole: true },
    { rolname: 'holdpoint_serve', rolsuper: false, rolcreaterole: false },
    { rolname: 'holdpoint_worker', rolsuper: false, rolcreaterole: false },
    { rolname: 'temporal', rolsuper: false, rolcreaterole: false },
  ]);
});

test('the role of Temporal cannot enter the database of Holdpoint, and makes databases of its own', async () => {
  const password = (await stack.secret('temporal_db_password')).trim();
  await expect(query(stack.address('temporal', password), 'SELECT 1')).rejects.toThrow(/permission denied for database/);
  await query(stack.address('temporal', password, 'postgres'), 'CREATE DATABASE temporal');
});

test('migrate names what is missing or wrong, with the exit code of its kind', async () => {
  const empty = await writeSecret(join(folder.path, 'empty'), '\n');
  const wrong = await writeSecret(join(folder.path, 'wrong'), 'wrong\n');
  const failures = await Promise.all([
    stack.run('migrate', { HOLDPOINT_SERVE_PASSWORD_FILE: '' }),
    stack.run('migrate', { HOLDPOINT_SERVE_PASSWORD_FILE: empty }),
    stack.run('migrate', { DATABASE_PASSWORD_FILE: join(folder.path, 'none') }),
    stack.run('migrate', { DATABASE_URL: stack.address('holdpoint_owner', 'x') }),
    stack.run('migrate', { DATABASE_URL: '' }),
    stack.run('migrate', { DATABASE_PASSWORD_FILE: wrong }),
  ]);
  expect(failures.map(({ code }) => code)).toEqual([2, 2, 2, 2, 2, 7]);
  expect(failures.map(({ stderr }) => stderr)).toEqual([
    expect.stringContaining('HOLDPOINT_SERVE_PASSWORD_FILE is not set'),
    expect.stringContaining(`HOLDPOINT_SERVE_PASSWORD_FILE=${empty} is empty`),
    expect.stringContaining(`DATABASE_PASSWORD_FILE=${join(folder.path, 'none')} cannot be read`),
    expect.stringContaining('the password in DATABASE_URL and DATABASE_PASSWORD_FILE are both given'),
    expect.stringContaining('DATABASE_URL'),
    expect.stringContaining('password authentication failed'),
  ]);
});

test('serve does not start without its secret, and names the file', async () => {
  const missing = join(folder.path, 'secrets', 'none');
  const { code, stderr } = await stack.run('serve', { DATABASE_PASSWORD_FILE: missing });
  expect(code).toBe(2);
  expect(stderr).toContain(`DATABASE_PASSWORD_FILE=${missing}`);
  expect(stderr).toContain('node deploy/make-secrets.mjs');
});

test('serve and worker start, and the healthchecks of their containers succeed', async () => {
  serve = await stack.start('serve');
  worker = await stack.start('worker', { TEMPORAL_ADDRESS: door.address });
  expect(serve.ready.api_url).toMatch(/^http:\/\/0\.0\.0\.0:\d+$/);
  expect(await stack.healthcheck('serve', portOf(serve.ready.api_url))).toBe(0);
  expect(await stack.healthcheck('worker', portOf(worker.ready.health_url))).toBe(0);
});

test('the API answers whatever name its container is called by', async () => {
  const statusFor = (host: string): Promise<number | undefined> =>
    new Promise((resolve, reject) => {
      const asked = request({ host: '127.0.0.1', port: portOf(serve.ready.api_url), path: '/healthz', headers: { Host: host } }, (response) => {
        response.resume();
        resolve(response.statusCode);
      });
      asked.on('error', reject).end();
    });
  for (const host of ['serve:7390', '127.0.0.1:7390', 'approvals.example.com']) expect(await statusFor(host)).toBe(200);
});

test('a run waits, is approved with the keys of make-secrets, and acts once', async () => {
  const url = `http://127.0.0.1:${portOf(serve.ready.api_url)}`;
  const operator = new HoldpointClient({ url, apiKey: keys.operator });
  const approver = new HoldpointClient({ url, apiKey: keys.approver });
  const mail = { to: 'ann@example.com', subject: 'Refund', body: 'It is on its way' };
  const effects = async (): Promise<{ tool: string; args: unknown; run_id: string }[]> =>
    (await readFile(join(folder.path, 'volumes/worker-effects/effects.jsonl'), 'utf8').catch(() => ''))
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as { tool: string; args: unknown; run_id: string });
  const run = await operator.startRun(
    { agent: 'support', requester: 'rita', planner: { type: 'script', calls: [{ tool: 'email.send', args: mail }] } },
    { wait: 30 },
  );
  expect(run).toMatchObject({ status: 'waiting', stop_reason: 'approval_required' });
  expect(await effects()).toEqual([]);
  await expect(operator.decide(run.pending_id ?? '', { outcome: 'approved' })).rejects.toMatchObject({ code: 'not_eligible' });
  await approver.decide(run.pending_id ?? '', { outcome: 'approved' });
  const stopped = await eventually(async () => {
    const view = await operator.getRun(run.run_id);
    return view.status === 'stopped' ? view : undefined;
  }, 'the run stops');
  expect(stopped.stop_reason).toBe('completed');
  expect(await effects()).toMatchObject([{ tool: 'email.send', args: mail, run_id: run.run_id }]);
});

test('no secret stands in the environment of a process', async () => {
  for (const { child } of [serve, worker]) {
    const environment = await readFile(`/proc/${child.pid}/environ`, 'utf8');
    expect(environment).toContain('DATABASE_PASSWORD_FILE=');
    for (const name of ['worker_db_password', 'serve_db_password', 'owner_db_password', 'postgres_password'])
      expect(environment).not.toContain((await stack.secret(name)).trim());
  }
});

/** Asks the worker until it answers so. @returns what it says */
function answered(status: number): Promise<unknown> {
  const ask = async (): Promise<unknown> => {
    const response = await fetch(worker.ready.health_url ?? '');
    const body: unknown = await response.json();
    return response.status === status ? body : undefined;
  };
  return eventually(ask, `the worker answers ${status}`);
}

test('without Temporal the worker says that this is what fails, and is well again when it is back', async () => {
  door.shut();
  expect(await answered(503)).toEqual({ ok: false, failing: ['temporal'] });
  door.open();
  expect(await answered(200)).toEqual({ ok: true });
});

test('without the database the worker says that this is what fails, and is well again when it is back', async () => {
  await stack.stopDatabase();
  expect(await answered(503)).toEqual({ ok: false, failing: ['database'] });
  expect(await stack.healthcheck('worker', portOf(worker.ready.health_url))).toBe(1);
  expect(await stack.healthcheck('serve', portOf(serve.ready.api_url))).toBe(1);
  await stack.startDatabase();
  await answered(200);
  expect(await stack.healthcheck('serve', portOf(serve.ready.api_url))).toBe(0);
});

test('both end well on SIGTERM', async () => {
  expect(await Promise.all([serve.stop(), worker.stop()])).toEqual([0, 0]);
});
