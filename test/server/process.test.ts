import { type ChildProcess, fork } from 'node:child_process';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { freshDatabase, temporaryFolder, type TestDatabase } from '../support/index.ts';

let database: TestDatabase;
let folder: { path: string; remove: () => Promise<void> };
beforeAll(async () => {
  database = await freshDatabase();
  folder = await temporaryFolder();
  await writeFile(join(folder.path, 'holdpoint.yaml'), 'version: 1\n');
  await writeFile(
    join(folder.path, 'serve.mjs'),
    `import { runServer } from ${JSON.stringify(new URL('../../server/main.ts', import.meta.url).href)};
    runServer().catch((error) => { console.error(JSON.stringify({ code: error.code, message: error.message, hint: error.hint })); process.exitCode = 1; });`,
  );
});
afterAll(async () => {
  await database.drop();
  await folder.remove();
});

interface Running {
  child: ChildProcess;
  /** First line on stdout, or undefined when the process ended before it. */
  ready: Promise<string | undefined>;
  ended: Promise<{ code: number | null; stderr: string }>;
}

function serve(change: Record<string, string> = {}): Running {
  const at = (name: string): string => join(folder.path, name);
  const child = fork(at('serve.mjs'), {
    execArgv: ['--import', new URL('../../node_modules/tsx/dist/esm/index.mjs', import.meta.url).href],
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
    env: {
      PATH: process.env['PATH'],
      ...inject('temporalEnvironment'),
      DATABASE_URL: database.serveUrl,
      HOLDPOINT_CONFIG: at('holdpoint.yaml'),
      HOLDPOINT_KEYS_DIR: at('keys'),
      HOLDPOINT_JWKS: at('jwks.json'),
      HOLDPOINT_CHECKPOINTS_DIR: at('checkpoints'),
      PORT: '0',
      ...change,
    },
  });
  let stderr = '';
  child.stderr?.on('data', (part: Buffer) => (stderr += part.toString()));
  const ended = new Promise<{ code: number | null; stderr: string }>((resolve) => child.on('close', (code) => resolve({ code, stderr })));
  const ready = new Promise<string | undefined>((resolve) => {
    let text = '';
    child.stdout?.on('data', (part: Buffer) => {
      text += part.toString();
      if (text.includes('\n')) resolve(text.split('\n')[0]);
    });
    void ended.then(() => resolve(undefined));
  });
  return { child, ready, ended };
}

test('serve says once that it is ready, answers, and stops on SIGTERM', async () => {
  const { child, ready, ended } = serve();
  const line = JSON.parse((await ready) ?? (await ended).stderr) as { ready: string; api_url: string };
  expect(line).toEqual({ ready: 'serve', api_url: expect.stringMatching(/^http:\/\/127\.0\.0\.1:\d+$/) });
  expect((await fetch(`${line.api_url}/healthz`)).status).toBe(200);
  child.kill('SIGTERM');
  expect((await ended).code).toBe(0);
});

test('serve ends when the process that spawned it goes away', async () => {
  const { child, ready } = serve();
  expect(await ready).toBeDefined();
  const exited = new Promise((resolve) => child.once('exit', resolve));
  child.disconnect();
  expect(await exited).toBe(0);
});

test('a database without the schema, one that does not answer, and a missing variable are each one clear error', async () => {
  const url = new URL(database.adminUrl);
  url.pathname = '/postgres';
  const admin = new pg.Client({ connectionString: url.href });
  await admin.connect();
  await admin.query(`CREATE DATABASE ${database.name}_bare`);
  url.pathname = `/${database.name}_bare`;
  const failures = await Promise.all(
    [serve({ DATABASE_URL: url.href }), serve({ DATABASE_URL: 'postgres://x@127.0.0.1:9/x' }), serve({ HOLDPOINT_JWKS: '' })].map(({ ended }) => ended),
  );
  await admin.query(`DROP DATABASE ${database.name}_bare WITH (FORCE)`);
  await admin.end();
  expect(failures.map(({ code }) => code)).toEqual([1, 1, 1]);
  const errors = failures.map(({ stderr }) => JSON.parse(stderr.trim().split('\n').at(-1) ?? '') as { code: string; message: string; hint: string });
  expect(errors).toMatchObject([
    { code: 'missing_part', hint: expect.stringContaining('holdpoint migrate') },
    { code: 'database_unreachable' },
    { code: 'usage', message: expect.stringContaining('HOLDPOINT_JWKS') },
  ]);
});
