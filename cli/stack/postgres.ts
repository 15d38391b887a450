/** The embedded PostgreSQL server: real PostgreSQL out of an npm package, loopback only, one cluster per state directory. */
import { spawn, type ChildProcess } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, openSync } from 'node:fs';
import { chown, mkdir, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { HoldpointError, messageOf } from '../../core/errors.ts';
import { postgresHome, postgresPrograms, postgresUser, type SystemUser } from './postgres-user.ts';
import { commandOf, identify, stopProcess } from './processes.ts';
import { freePort } from './ports.ts';
import type { Report } from './programs.ts';

/** First word of the names of our databases' roles, and the database itself. */
const DATABASE = 'holdpoint';

export interface PostgresOptions {
  /** Folder in the state directory for data, or for the pointer to it, and for the superuser's password. */
  folder: string;
  logFile: string;
  /** 0 = any free one. */
  port?: number;
  /** Not for data that has to survive a power cut: tests only. */
  unsafeFast?: boolean;
}

export interface PostgresServer {
  process: ChildProcess;
  /** Superuser's address of the database `holdpoint`. */
  adminUrl: string;
  /** Folder that holds the cluster. */
  home: string;
}

/**
 * Starts the server, on the first call with a new cluster, and waits until it answers. A server that an earlier, killed
 * parent left running on the same data is stopped first. When it fails, nothing is left running.
 */
export async function startPostgres(options: PostgresOptions, report: Report, onSpawn: (process: ChildProcess) => void = () => {}): Promise<PostgresServer> {
  const user = await postgresUser();
  const programs = await postgresPrograms(user);
  const home = await postgresHome(options.folder, user);
  const data = join(home, 'data');
  const password = await ensurePassword(join(options.folder, 'password'));
  if (!(await exists(join(data, 'PG_VERSION')))) {
    report('making the PostgreSQL database, once');
    await initialise(programs, home, password, user, options.unsafeFast === true);
  }
  await stopLeftOver(data);
  for (let attempt = 1; ; attempt += 1) {
    const port = options.port === undefined || options.port === 0 ? await freePort() : options.port;
    const child = spawnServer(programs, data, port, user, options);
    onSpawn(child);
    const base = `postgres://postgres:${password}@127.0.0.1:${port}`;
    try {
      await waitForAnswer(`${base}/postgres`, child);
      await ensureDatabase(`${base}/postgres`);
      return { process: child, adminUrl: `${base}/${DATABASE}`, home };
    } catch (error) {
      child.kill('SIGQUIT');
      // Backends of a killed server need a moment to notice, and hold its shared memory until then. They write to the log too.
      if (attempt < 20 && (await logSays(options.logFile, /shared memory block|lock file|could not bind/))) {
        await sleep(250);
        continue;
      }
      throw new HoldpointError('database_unreachable', `PostgreSQL did not start: ${messageOf(error)}\n${await logTail(options.logFile)}`, {
        cause: error,
        hint: `its log is ${options.logFile}`,
      });
    }
  }
}

async function ensurePassword(file: string): Promise<string> {
  const known = (await readFile(file, 'utf8').catch(() => '')).trim();
  if (known !== '') return known;
  const password = randomBytes(24).toString('base64url');
  await writeFile(file, `${password}\n`, { mode: 0o600 });
  return password;
}

/** The new cluster appears by a rename: an interrupted start leaves no half-made one. */
async function initialise(programs: string, home: string, password: string, user: SystemUser | undefined, unsafeFast: boolean): Promise<void> {
  for (const name of await readdir(home)) if (name.startsWith('new-')) await rm(join(home, name), { recursive: true, force: true });
  const work = join(home, `new-${process.pid}`);
  const data = join(work, 'data');
  const passwordFile = join(work, 'password');
  await mkdir(work, { mode: 0o700 });
  await writeFile(passwordFile, `${password}\n`, { mode: 0o600 });
  if (user !== undefined) for (const path of [work, passwordFile]) await chown(path, user.uid, user.gid);
  const args = ['-D', data, '--username=postgres', `--pwfile=${passwordFile}`, '--auth=scram-sha-256', '--encoding=UTF8'];
  args.push('--locale-provider=builtin', '--builtin-locale=C.UTF-8', '--locale=C', '--no-instructions');
  if (unsafeFast) args.push('--no-sync');
  try {
    await runToEnd(join(programs, 'bin', 'initdb'), args, work, user);
    await rm(passwordFile, { force: true });
    await rename(data, join(home, 'data'));
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

function runToEnd(program: string, args: string[], cwd: string, user: SystemUser | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { ...user, cwd, env: serverEnvironment(), stdio: ['ignore', 'pipe', 'pipe'] });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text: string) => (output = (output + text).slice(-4_000)));
    child.once('error', reject);
    child.once('close', (code) => {
      if (code === 0) resolve();
      else reject(new HoldpointError('missing_part', `initdb ended with ${code ?? 'a signal'}:\n${output.trim()}`));
    });
  });
}

function spawnServer(programs: string, data: string, port: number, user: SystemUser | undefined, options: PostgresOptions): ChildProcess {
  const settings = [
    `port=${port}`,
    'listen_addresses=127.0.0.1',
    'unix_socket_directories=',
    'max_connections=200',
    'logging_collector=off',
    'log_timezone=UTC',
    'timezone=UTC',
  ];
  if (options.unsafeFast === true) settings.push('fsync=off', 'full_page_writes=off', 'synchronous_commit=off');
  const log = openSync(options.logFile, 'w', 0o600);
  const child = spawn(join(programs, 'bin', 'postgres'), ['-D', data, ...settings.flatMap((setting) => ['-c', setting])], {
    ...user,
    cwd: data,
    env: serverEnvironment(),
    stdio: ['ignore', log, log],
    // See temporal.ts: `up` alone hears Ctrl-C and stops its parts in order.
    detached: true,
  });
  child.on('error', () => {});
  closeSync(log);
  return child;
}

function serverEnvironment(): NodeJS.ProcessEnv {
  return { PATH: process.env.PATH, LC_ALL: 'C', TZ: 'UTC' };
}

/** `postmaster.pid` of a killed server: its pid may be gone, be ours still, or belong to somebody else by now. */
async function stopLeftOver(data: string): Promise<void> {
  const file = join(data, 'postmaster.pid');
  const pid = Number.parseInt(await readFile(file, 'utf8').catch(() => ''), 10);
  if (!Number.isInteger(pid) || pid <= 1) return;
  const found = identify(pid);
  if (found !== undefined && (commandOf(pid) ?? '').includes(`-D ${data}`)) await stopProcess(found, ['SIGINT', 'SIGQUIT', 'SIGKILL'], 5_000);
  else if (found !== undefined) await rm(file, { force: true });
}

/** After a kill it first syncs every file of its folder and replays its log, and says so: that ends, however slow the disk. */
const RECOVERING = '57P03';
const WRONG_PASSWORD = '28P01';
const PATIENCE_MS = 30_000;
const RECOVERY_PATIENCE_MS = 300_000;

async function waitForAnswer(url: string, child: ChildProcess): Promise<void> {
  const began = performance.now();
  for (;;) {
    if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) throw new Error('the process ended at once');
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
    client.on('error', () => {});
    try {
      await client.connect();
      await client.query('SELECT 1');
      return;
    } catch (error) {
      const { code } = error as { code?: string };
      const patience = code === RECOVERING ? RECOVERY_PATIENCE_MS : PATIENCE_MS;
      if (performance.now() - began > patience || code === WRONG_PASSWORD) throw error;
      await sleep(30);
    } finally {
      await client.end().catch(() => {});
    }
  }
}

async function ensureDatabase(url: string): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    const found = await client.query('SELECT 1 FROM pg_database WHERE datname = $1', [DATABASE]);
    if (found.rowCount === 0) await client.query(`CREATE DATABASE ${DATABASE}`);
  } finally {
    await client.end();
  }
}

async function logTail(file: string): Promise<string> {
  return (await readFile(file, 'utf8').catch(() => '')).trim().split('\n').slice(-5).join('\n');
}

async function logSays(file: string, words: RegExp): Promise<boolean> {
  return words.test(await readFile(file, 'utf8').catch(() => ''));
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    () => false,
  );
}

/** Stops the server: open transactions are rolled back, data is written out. */
export async function stopPostgres(child: ChildProcess): Promise<void> {
  const identity = child.pid === undefined ? undefined : identify(child.pid);
  if (identity !== undefined) await stopProcess(identity, ['SIGINT', 'SIGQUIT', 'SIGKILL'], 8_000);
}
