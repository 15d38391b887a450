/** The embedded stack: starts what is missing, in order, and stops it all again. */
import { rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { migrate } from '../../adapters/database.ts';
import { HoldpointError, isHoldpointError, messageOf } from '../../core/errors.ts';
import { startChild } from './child.ts';
import { serveEnvironment, workerEnvironment, type StackParts } from './environment.ts';
import { prepareExamples } from './examples.ts';
import { ensureIdentities, ensureRolePasswords } from './identities.ts';
import { tryLock } from './lock.ts';
import { claimPort } from './ports.ts';
import { startPostgres } from './postgres.ts';
import { isRunning, stopProcess } from './processes.ts';
import type { Report } from './programs.ts';
import { prepareState, readStackFile, writePrivate, type PartRecord, type StackFile, type StatePaths } from './state.ts';
import { createSupervisor, type Part, type Supervisor } from './supervisor.ts';
import { ensureTemporal } from './temporal-binary.ts';
import { startTemporalRetrying, type TemporalServer } from './temporal.ts';

/** The configuration that comes with the product. */
export const EMBEDDED_CONFIG = fileURLToPath(new URL('../embedded.yaml', import.meta.url));

export interface StackOptions {
  paths: StatePaths;
  temporalPort: number;
  webPort: number;
  apiPort: number;
  configFile: string;
  env: NodeJS.ProcessEnv;
}

/** What a ready stack answers to. `database_url` is the superuser's. */
export interface StackAddresses {
  temporal_address: string;
  temporal_web: string | null;
  api_url: string;
  database_url: string;
  state_dir: string;
}

export interface Stack {
  addresses: StackAddresses;
  stop(): Promise<void>;
}

/**
 * Starts the stack. `onStop` gets the function that stops what has been started so far, before anything is: call it to
 * abandon a start. When the start fails, nothing is left running.
 */
export async function startStack(options: StackOptions, report: Report, onStop: (stop: () => Promise<void>) => void): Promise<Stack> {
  await prepareState(options.paths);
  const attempt = await tryLock(options.paths.lock);
  if (!attempt.held) throw alreadyRunning(options.paths, attempt.pid, attempt.info);
  const stackFile: StackFile = { pid: process.pid, status: 'starting', parts: [], started_at: new Date().toISOString() };
  const supervisor = createSupervisor(report, (parts) => void record(parts));
  let writes: Promise<void> = Promise.resolve();
  const write = (): Promise<void> =>
    (writes = writes.then(() => writePrivate(options.paths.stackFile, `${JSON.stringify(stackFile, null, 2)}\n`)).catch(() => {}));
  const record = (parts: PartRecord[]): Promise<void> => {
    stackFile.parts = parts;
    return write();
  };
  const stop = once(async () => {
    await supervisor.stopAll();
    await writes;
    await rm(options.paths.stackFile, { force: true });
    await attempt.lock.release();
  });
  onStop(stop);
  try {
    await stopLeftOvers(options.paths, report);
    const addresses = await startParts(options, supervisor, report);
    Object.assign(stackFile, addresses, { status: 'ready' });
    await write();
    await attempt.lock.update({ api_url: addresses.api_url });
    return { addresses, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

function alreadyRunning(paths: StatePaths, pid: number, info: Record<string, unknown>): HoldpointError {
  const at = typeof info.api_url === 'string' ? `, API ${info.api_url}` : ', still starting';
  return new HoldpointError('already_running', `a stack already runs in ${paths.root} (pid ${pid}${at})`, {
    details: { pid, state_dir: paths.root, ...info },
    hint: `use it as it is, stop it with: kill ${pid}, or choose another directory with --state-dir`,
  });
}

/** Parts of an `up` that was killed: the same processes by pid and start time, or nothing is touched. */
async function stopLeftOvers(paths: StatePaths, report: Report): Promise<void> {
  for (const part of [...((await readStackFile(paths))?.parts ?? [])].reverse()) {
    if (!isRunning(part)) continue;
    report(`stopping ${part.name} (pid ${part.pid}), left over from a stack that was killed`);
    await stopProcess(part, part.name === 'PostgreSQL' ? ['SIGINT', 'SIGQUIT', 'SIGKILL'] : ['SIGTERM', 'SIGKILL'], 5_000);
  }
}

async function startParts(options: StackOptions, supervisor: Supervisor, report: Report): Promise<StackAddresses> {
  const { paths, env } = options;
  const externalTemporal = env.TEMPORAL_ADDRESS || env.TEMPORAL_PROFILE ? await reachTemporal(env) : undefined;
  const apiPort = await claimPort(options.apiPort, 'the API', '--api-port');
  for (const name of ['temporal', 'postgres', 'worker', 'serve']) await rotateLog(join(paths.logs, `${name}.log`));
  const [temporal, database] = await allSettled([
    externalTemporal === undefined ? startOwnTemporal(options, supervisor, report) : undefined,
    prepareDatabase(options, supervisor, report),
    ensureIdentities(paths),
  ]);
  const parts: StackParts = {
    paths,
    adminUrl: database,
    passwords: await ensureRolePasswords(paths),
    configFile: options.configFile,
    apiPort,
    embeddedTemporal: temporal,
  };
  const apiUrl = await startApplication(parts, env, supervisor, report);
  const address = temporal?.address ?? externalTemporal;
  if (address === undefined) throw new HoldpointError('internal', 'neither an own nor a given Temporal server');
  return {
    temporal_address: address,
    temporal_web: temporal?.web ?? env.HOLDPOINT_TEMPORAL_WEB ?? null,
    api_url: apiUrl,
    database_url: database,
    state_dir: paths.root,
  };
}

/** Like `Promise.all`, but when one fails the others are waited for: what still starts could not be stopped. */
async function allSettled<T extends readonly unknown[]>(work: T): Promise<{ -readonly [K in keyof T]: Awaited<T[K]> }> {
  await Promise.allSettled(work);
  return Promise.all(work);
}

async function startOwnTemporal(options: StackOptions, supervisor: Supervisor, report: Report): Promise<{ address: string; web: string }> {
  await claimPort(options.temporalPort, 'the Temporal server', '--temporal-port');
  await claimPort(options.webPort, 'Temporal Web', '--web-port');
  const program = await ensureTemporal(report, options.env);
  report('starting the Temporal server');
  const wanted = { port: options.temporalPort, webPort: options.webPort };
  let found: TemporalServer | undefined;
  const settings = { program, dbFile: options.paths.temporalDb, logFile: join(options.paths.logs, 'temporal.log') };
  const start: Part['start'] = async (onSpawn) => {
    found = await startTemporalRetrying({ ...settings, ...wanted }, onSpawn);
    // A restarted server has to be where its clients look for it.
    Object.assign(wanted, { port: found.port, webPort: found.webPort });
  };
  await supervisor.start({ name: 'Temporal', start, signals: ['SIGTERM', 'SIGKILL'], graceMs: 8_000 });
  if (found === undefined) throw new HoldpointError('internal', 'the Temporal server started without an address');
  return found;
}

/** @returns the superuser's address of a migrated database */
async function prepareDatabase(options: StackOptions, supervisor: Supervisor, report: Report): Promise<string> {
  const url = options.env.DATABASE_URL || (await startOwnPostgres(options, supervisor, report));
  const passwords = await ensureRolePasswords(options.paths);
  try {
    await migrate(url, passwords);
    await prepareExamples(url, passwords.examples);
  } catch (error) {
    if (isHoldpointError(error)) throw error;
    throw new HoldpointError('database_unreachable', `the database at ${withoutPassword(url)} cannot be prepared: ${messageOf(error)}`, {
      cause: error,
      hint: 'DATABASE_URL has to name a superuser or the owner of a database; without it, `up` starts its own',
    });
  }
  return url;
}

async function startOwnPostgres(options: StackOptions, supervisor: Supervisor, report: Report): Promise<string> {
  report('starting PostgreSQL');
  let port = 0;
  let url = '';
  const settings = { folder: options.paths.postgres, logFile: join(options.paths.logs, 'postgres.log') };
  await supervisor.start({
    name: 'PostgreSQL',
    start: async (onSpawn) => {
      const server = await startPostgres({ ...settings, port }, report, onSpawn);
      url = server.adminUrl;
      // A restarted server has to be where its clients look for it.
      port = Number(new URL(url).port);
    },
    signals: ['SIGINT', 'SIGQUIT', 'SIGKILL'],
    graceMs: 8_000,
  });
  return url;
}

/** The API first: it makes the keys that the worker pins. */
async function startApplication(parts: StackParts, env: NodeJS.ProcessEnv, supervisor: Supervisor, report: Report): Promise<string> {
  report('starting the API and the worker');
  let apiUrl = '';
  const part = (name: 'worker' | 'serve', childEnv: NodeJS.ProcessEnv, onReady: (said: Record<string, unknown>) => void) => ({
    name,
    start: async (onSpawn: Parameters<typeof startChild>[2]) =>
      onReady(await startChild(name, { env: childEnv, logFile: join(parts.paths.logs, `${name}.log`) }, onSpawn)),
    signals: ['SIGTERM', 'SIGKILL'] as NodeJS.Signals[],
    graceMs: 10_000,
  });
  await supervisor.start(part('serve', serveEnvironment(env, parts), (said) => (apiUrl = String(said.api_url))));
  await supervisor.start(part('worker', workerEnvironment(env, parts), () => {}));
  return apiUrl;
}

/** Says early, and with the address, that a server that was given does not answer. */
async function reachTemporal(env: NodeJS.ProcessEnv): Promise<string> {
  const { loadClientConnectConfig } = await import('@temporalio/envconfig');
  const { Connection } = await import('@temporalio/client');
  const { connectionOptions } = loadClientConnectConfig({ overrideEnvVars: definedOnly(env) });
  const address = connectionOptions.address ?? 'localhost:7233';
  try {
    const connection = await Connection.connect({ ...connectionOptions, connectTimeout: '8s' });
    await connection.close();
    return address;
  } catch (error) {
    throw new HoldpointError('temporal_unreachable', `no Temporal server answers at ${address}: ${messageOf(error)}`, {
      cause: error,
      hint: 'check TEMPORAL_ADDRESS and the other TEMPORAL_ variables; without them, `up` starts its own server',
    });
  }
}

function definedOnly(env: NodeJS.ProcessEnv): Record<string, string> {
  return Object.fromEntries(Object.entries(env).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])));
}

function withoutPassword(url: string): string {
  try {
    const parsed = new URL(url);
    parsed.password = '';
    return parsed.href;
  } catch {
    return 'DATABASE_URL';
  }
}

/** One older log is kept. */
async function rotateLog(file: string): Promise<void> {
  const size = (await stat(file).catch(() => undefined))?.size ?? 0;
  if (size > 10_000_000) await rename(file, `${file}.1`);
}

function once(work: () => Promise<void>): () => Promise<void> {
  let running: Promise<void> | undefined;
  return () => (running ??= work());
}
