import { mkdir, readFile, rm, stat } from 'node:fs/promises';
import { once } from 'node:events';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { startPostgres, stopPostgres, type PostgresServer } from '../../cli/stack/postgres.ts';
import { temporaryFolder } from '../support/index.ts';

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let running: PostgresServer[];
beforeEach(async () => {
  // As root this folder is out of reach for the user that the server runs as.
  folder = await temporaryFolder();
  await mkdir(join(folder.path, 'pg'), { mode: 0o700 });
  running = [];
});
afterEach(async () => {
  for (const server of running) await stopPostgres(server.process);
  for (const server of running) await rm(server.home, { recursive: true, force: true });
  await folder.remove();
});

async function start(): Promise<PostgresServer> {
  const server = await startPostgres({ folder: join(folder.path, 'pg'), logFile: join(folder.path, 'postgres.log') }, () => {});
  running.push(server);
  return server;
}

async function ask(url: string, sql: string): Promise<unknown> {
  const client = new pg.Client({ connectionString: url });
  client.on('error', () => {});
  await client.connect();
  try {
    return (await client.query(sql)).rows[0];
  } finally {
    await client.end();
  }
}

test('what was committed survives kill -9 of the server', async () => {
  const first = await start();
  await ask(first.adminUrl, 'CREATE TABLE kept AS SELECT 42 AS n');
  first.process.kill('SIGKILL');
  await once(first.process, 'exit');
  const second = await start();
  expect(await ask(second.adminUrl, 'SELECT n FROM kept')).toEqual({ n: 42 });
});

test('a server that is killed with many connections open is started again when their processes are gone, however much they log', async () => {
  const first = await start();
  const clients = Array.from({ length: 100 }, () => new pg.Client({ connectionString: first.adminUrl }));
  const pids: number[] = [];
  for (const client of clients) {
    client.on('error', () => {});
    await client.connect();
    pids.push(((await client.query('SELECT pg_backend_pid() AS pid')).rows as { pid: number }[])[0]!.pid);
  }
  for (const pid of pids) process.kill(pid, 'SIGSTOP');
  first.process.kill('SIGKILL');
  await once(first.process, 'exit');
  const starting = start();
  // Each writes a few lines when it notices, while others still hold the memory that the new server wants.
  for (const pid of pids) {
    process.kill(pid, 'SIGCONT');
    await sleep(5);
  }
  expect(await ask((await starting).adminUrl, 'SELECT 1 AS n')).toEqual({ n: 1 });
});

test('a server that a killed parent left running is stopped, its data kept', async () => {
  const orphan = await start();
  await ask(orphan.adminUrl, 'CREATE TABLE kept AS SELECT 42 AS n');
  const ended = once(orphan.process, 'exit');
  const second = await start();
  await ended;
  expect(await ask(second.adminUrl, 'SELECT n FROM kept')).toEqual({ n: 42 });
});

test('the server asks for a password, listens on loopback alone and has no socket', async () => {
  const server = await start();
  const url = new URL(server.adminUrl);
  url.password = 'guess';
  await expect(ask(url.href, 'SELECT 1')).rejects.toThrow(/password authentication failed/);
  expect(await ask(server.adminUrl, `SELECT current_setting('listen_addresses') AS a, current_setting('unix_socket_directories') AS s`)).toEqual({
    a: '127.0.0.1',
    s: '',
  });
  expect((await stat(join(folder.path, 'pg', 'password'))).mode & 0o777).toBe(0o600);
  expect((await stat(server.home)).mode & 0o077).toBe(0);
});

// Only root's data lies outside the state directory.
const asRoot = process.getuid?.() === 0 ? test : () => {};
asRoot('data that is gone is said to be gone, not replaced by an empty database', async () => {
  const server = await start();
  await stopPostgres(server.process);
  await rm(server.home, { recursive: true });
  expect((await readFile(join(folder.path, 'pg', 'location'), 'utf8')).trim()).toBe(server.home);
  await expect(start()).rejects.toMatchObject({ code: 'missing_part', message: expect.stringContaining(server.home) });
});
