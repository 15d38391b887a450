/** What both sides stand on: one PostgreSQL that flushes, and one of the two Temporal servers. */
import { mkdir, mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Client } from '@temporalio/client';
import { migrate } from '../adapters/database.ts';
import { asRole } from '../cli/stack/examples.ts';
import { startPostgres, stopPostgres } from '../cli/stack/postgres.ts';
import { identify, stopProcess } from '../cli/stack/processes.ts';
import { ensureTemporal } from '../cli/stack/temporal-binary.ts';
import { startTemporalRetrying } from '../cli/stack/temporal.ts';
import { connect, plainEnvironment, serverKind, type ServerKind } from '../test/support/environment.ts';
import { startFullServer } from '../test/support/full-server.ts';
import { ensureServerBinaries } from '../test/support/server-binaries.ts';

export { type ServerKind, serverKind };

export interface Stand {
  readonly folder: string;
  readonly client: Client;
  /** Variables by which a process finds the Temporal server. */
  readonly temporalEnvironment: Record<string, string>;
  readonly workerDatabaseUrl: string;
  readonly serveDatabaseUrl: string;
  readonly serverPid: number;
  readonly postgresPid: number;
  close(): Promise<void>;
}

const PASSWORDS = { worker: 'bench-worker', serve: 'bench-serve' };
type Report = (message: string) => void;
type Closers = (() => Promise<unknown>)[];

export async function openStand(kind: ServerKind, report: Report): Promise<Stand> {
  const folder = await mkdtemp(join(tmpdir(), 'holdpoint-bench-'));
  const closers: Closers = [() => rm(folder, { recursive: true, force: true })];
  const close = async (): Promise<void> => {
    for (const step of closers.splice(0).reverse()) await step();
  };
  try {
    const postgres = await database(folder, closers);
    const server = kind === 'embedded' ? await embedded(folder, report, closers) : await full(folder, postgres.adminUrl, report, closers);
    const connection = await connect(server.environment);
    closers.push(() => connection.close());
    return {
      folder,
      client: new Client({ connection }),
      temporalEnvironment: server.environment,
      workerDatabaseUrl: asRole(postgres.adminUrl, 'holdpoint_worker', PASSWORDS.worker),
      serveDatabaseUrl: asRole(postgres.adminUrl, 'holdpoint_serve', PASSWORDS.serve),
      serverPid: server.pid,
      postgresPid: postgres.pid,
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

async function database(folder: string, closers: Closers): Promise<{ adminUrl: string; pid: number }> {
  await mkdir(join(folder, 'pg'));
  const started = await startPostgres({ folder: join(folder, 'pg'), logFile: join(folder, 'postgres.log') }, () => {});
  closers.push(async () => {
    await stopPostgres(started.process);
    await rm(started.home, { recursive: true, force: true });
  });
  await migrate(started.adminUrl, PASSWORDS);
  return { adminUrl: started.adminUrl, pid: started.process.pid ?? 0 };
}

type Server = { environment: Record<string, string>; pid: number };

async function embedded(folder: string, report: Report, closers: Closers): Promise<Server> {
  const program = await ensureTemporal(report);
  // With a file, as `up` has it.
  const settings = { program, port: 0, webPort: 0, dbFile: join(folder, 'temporal.db'), logFile: join(folder, 'temporal.log') };
  const started = await startTemporalRetrying(settings);
  const pid = started.process.pid ?? 0;
  closers.push(async () => {
    const found = identify(pid);
    if (found) await stopProcess(found, ['SIGTERM', 'SIGKILL'], 8_000);
  });
  return { pid, environment: plainEnvironment(started.address) };
}

async function full(folder: string, databaseAdminUrl: string, report: Report, closers: Closers): Promise<Server> {
  const [binaries, program] = await Promise.all([ensureServerBinaries(report), ensureTemporal(report)]);
  const started = await startFullServer({ binaries, program, databaseAdminUrl, folder });
  closers.push(() => started.stop());
  return { pid: started.pid(), environment: started.environment };
}
