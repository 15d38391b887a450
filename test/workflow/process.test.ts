import { spawn, type ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client, Connection } from '@temporalio/client';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { freePort } from '../../cli/stack/ports.ts';
import { readWorkerConfig } from '../../worker/config.ts';
import { createWorker } from '../../worker/index.ts';
import { connectWorker, ensureSearchAttributes, searchAttributesCommand } from '../../worker/temporal.ts';
import { eventually, freshDatabase, temporaryFolder, type TestDatabase } from '../support/index.ts';

let database: TestDatabase;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let environment: Record<string, string>;

beforeAll(async () => {
  [database, folder] = await Promise.all([freshDatabase(), temporaryFolder('holdpoint-worker-')]);
  const policy = join(folder.path, 'holdpoint.yaml');
  await writeFile(policy, 'tools: []\n');
  await writeFile(
    join(folder.path, 'worker.mjs'),
    `import { runWorker } from '${new URL('../../worker/main.ts', import.meta.url).href}';\nawait runWorker();\n`,
  );
  environment = {
    DATABASE_URL: database.workerUrl,
    HOLDPOINT_CONFIG: policy,
    HOLDPOINT_JWKS: join(folder.path, 'jwks.json'),
    HOLDPOINT_TASK_QUEUE: `process-${folder.path}`,
    ...inject('temporalEnvironment'),
  };
});
afterAll(async () => {
  await database.drop();
  await folder.remove();
});

interface Started {
  child: ChildProcess;
  out: () => string;
  err: () => string;
}

function startProcess(more: Record<string, string> = {}): Started {
  const child = spawn(process.execPath, ['--import', 'tsx', join(folder.path, 'worker.mjs')], {
    cwd: new URL('../..', import.meta.url),
    env: { PATH: process.env.PATH, HOME: process.env.HOME, ...environment, ...more },
    stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
  });
  const text = { out: '', err: '' };
  child.stdout?.on('data', (data: Buffer) => {
    text.out += data.toString();
  });
  child.stderr?.on('data', (data: Buffer) => {
    text.err += data.toString();
  });
  return { child, out: () => text.out, err: () => text.err };
}

async function ready(started: Started): Promise<void> {
  await eventually(() => {
    if (started.child.exitCode !== null) throw new Error(`the worker ended: ${started.err()}`);
    return started.out().includes('\n') ? true : undefined;
  }, 'the worker is ready');
}

test('a worker prints one line when it is ready, logs JSON on stderr, and stops on SIGTERM', async () => {
  const started = startProcess();
  await ready(started);
  const ended = once(started.child, 'exit');
  started.child.kill('SIGTERM');
  expect(await ended).toEqual([0, null]);
  expect(started.out()).toBe('{"ready":"worker"}\n');
  for (const line of started.err().trim().split('\n')) expect(JSON.parse(line)).toMatchObject({ process: 'worker' });
});

test('a worker whose parent is gone ends by itself', async () => {
  const started = startProcess();
  await ready(started);
  const ended = once(started.child, 'exit');
  started.child.disconnect();
  expect(await ended).toEqual([0, null]);
});

test('an environment that is wrong names every variable', () => {
  expect(() => readWorkerConfig({ DATABASE_URL: 'mysql://x', HOLDPOINT_MAX_CACHED_RUNS: '-1' })).toThrow(
    /DATABASE_URL.*HOLDPOINT_CONFIG.*HOLDPOINT_JWKS.*HOLDPOINT_MAX_CACHED_RUNS/,
  );
});

test('a Temporal server that does not answer is temporal_unreachable, with its address', async () => {
  const before = process.env.TEMPORAL_ADDRESS;
  process.env.TEMPORAL_ADDRESS = `127.0.0.1:${await freePort()}`;
  const retries: string[] = [];
  await expect(connectWorker({ patienceMs: 1_000, onRetry: (message) => retries.push(message) })).rejects.toMatchObject({
    code: 'temporal_unreachable',
    message: expect.stringContaining(process.env.TEMPORAL_ADDRESS),
  });
  expect(retries.length).toBeGreaterThan(0);
  if (before === undefined) delete process.env.TEMPORAL_ADDRESS;
  else process.env.TEMPORAL_ADDRESS = before;
});

test('a database that does not answer is database_unreachable, and nothing is left open', async () => {
  const config = readWorkerConfig({ ...environment, DATABASE_URL: `postgres://x:y@127.0.0.1:${await freePort()}/z` });
  await expect(createWorker({ config, tools: [] })).rejects.toMatchObject({ code: 'database_unreachable' });
});

test('on a bare namespace the search attributes are added once, and a second look finds them', async () => {
  const port = await freePort();
  const address = `127.0.0.1:${port}`;
  const server = spawn(inject('temporalProgram'), ['server', 'start-dev', '--headless', '--ip', '127.0.0.1', '--port', String(port), '--log-level', 'error'], {
    stdio: 'ignore',
  });
  const before = process.env.TEMPORAL_ADDRESS;
  process.env.TEMPORAL_ADDRESS = address;
  try {
    const link = await connectWorker({ patienceMs: 20_000 });
    expect(await ensureSearchAttributes(link)).toBe(true);
    expect(await ensureSearchAttributes(link)).toBe(true);
    expect(await ensureSearchAttributes({ ...link, namespace: 'nowhere' })).toBe(false);
    expect(searchAttributesCommand('default')).toContain('--name HoldpointStopReason --type Keyword');
    await link.connection.close();
    const connection = await Connection.connect({ address });
    const { customAttributes } = await new Client({ connection }).connection.operatorService.listSearchAttributes({ namespace: 'default' });
    expect(Object.keys(customAttributes ?? {})).toEqual(expect.arrayContaining(['HoldpointStatus', 'HoldpointAgent', 'HoldpointStopReason']));
    await connection.close();
  } finally {
    server.kill('SIGTERM');
    if (before === undefined) delete process.env.TEMPORAL_ADDRESS;
    else process.env.TEMPORAL_ADDRESS = before;
  }
});
