/** Starts one PostgreSQL and one Temporal server for the whole test run and builds the workflow bundle once. */
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TestProject } from 'vitest/node';
import { abandonedHomes } from '../../cli/stack/postgres-user.ts';
import { startPostgres, stopPostgres } from '../../cli/stack/postgres.ts';
import { identify, stopProcess } from '../../cli/stack/processes.ts';
import { ensureTemporal } from '../../cli/stack/temporal-binary.ts';
import { startTemporalRetrying } from '../../cli/stack/temporal.ts';
import { plainEnvironment, serverKind, type ServerKind, type TemporalEnvironment } from './environment.ts';
import { startFullServer } from './full-server.ts';
import { ensureServerBinaries } from './server-binaries.ts';
import { makeTemplate } from './template.ts';

declare module 'vitest' {
  export interface ProvidedContext {
    /** Superuser's address of an empty database; use `freshDatabase()`. */
    adminDatabaseUrl: string;
    temporalServer: ServerKind;
    /** A client's, certificate included. */
    temporalEnvironment: TemporalEnvironment;
    temporalProgram: string;
    /** JavaScript file for `Worker.create({ workflowBundle: { codePath } })`; empty while there are no workflows. */
    workflowBundlePath: string;
  }
}

/** Databases of test runs that were killed are recognised by it. */
const PREFIX = join(tmpdir(), 'holdpoint-test-');

const report = (message: string): void => void process.stderr.write(`${message}\n`);

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  for (const { home, stateFolder } of await abandonedHomes()) if (stateFolder.startsWith(PREFIX)) await rm(home, { recursive: true, force: true });
  const kind = serverKind();
  const folder = await mkdtemp(PREFIX);
  const stops: (() => Promise<void>)[] = [];
  const teardown = async (): Promise<void> => {
    for (const stop of stops.reverse()) await stop();
    await rm(folder, { recursive: true, force: true });
  };
  try {
    const program = await ensureTemporal(report);
    const postgres = database(folder, stops);
    const temporal = kind === 'full' ? fullServer(program, folder, postgres, stops) : embeddedServer(program, folder, stops);
    const [databaseUrl, environment, bundle] = await Promise.all([postgres, temporal, workflowBundle(folder)]);
    project.provide('adminDatabaseUrl', databaseUrl);
    project.provide('temporalServer', kind);
    project.provide('temporalEnvironment', environment);
    project.provide('temporalProgram', program);
    project.provide('workflowBundlePath', bundle);
  } catch (error) {
    await teardown();
    throw error;
  }
  return teardown;
}

async function database(folder: string, stops: (() => Promise<void>)[]): Promise<string> {
  await mkdir(join(folder, 'pg'));
  const started = await startPostgres({ folder: join(folder, 'pg'), logFile: join(folder, 'postgres.log'), unsafeFast: true }, () => {});
  stops.push(async () => {
    await stopPostgres(started.process);
    await rm(started.home, { recursive: true, force: true });
  });
  await makeTemplate(started.adminUrl);
  return started.adminUrl;
}

async function fullServer(program: string, folder: string, postgres: Promise<string>, stops: (() => Promise<void>)[]): Promise<TemporalEnvironment> {
  const binaries = await ensureServerBinaries(report);
  const server = await startFullServer({ binaries, program, databaseAdminUrl: await postgres, folder: join(folder, 'temporal') });
  stops.push(server.stop);
  return server.environment;
}

async function embeddedServer(program: string, folder: string, stops: (() => Promise<void>)[]): Promise<TemporalEnvironment> {
  const started = await startTemporalRetrying({ program, port: 0, webPort: 0, logFile: join(folder, 'temporal.log') });
  stops.push(async () => {
    const identity = started.process.pid === undefined ? undefined : identify(started.process.pid);
    if (identity !== undefined) await stopProcess(identity, ['SIGTERM', 'SIGKILL'], 5_000);
  });
  return plainEnvironment(started.address);
}

async function workflowBundle(folder: string): Promise<string> {
  const here = (path: string): URL => new URL(`../../${path}`, import.meta.url);
  if (!existsSync(here('workflows/index.ts'))) return '';
  const file = join(folder, 'workflow-bundle.js');
  try {
    const code = existsSync(here('worker/bundle.ts')) ? await ownBundle(here('worker/bundle.ts').href) : await plainBundle(here('workflows/index.ts').pathname);
    await writeFile(file, code);
    return file;
  } catch (error) {
    // Tests without workflows still run; those with one find no bundle and fail with this message above them.
    report(`the workflow bundle cannot be built: ${error instanceof Error ? error.message : String(error)}`);
    return '';
  }
}

async function ownBundle(module: string): Promise<string> {
  const { buildWorkflowBundle } = (await import(module)) as { buildWorkflowBundle: () => Promise<{ code: string }> };
  return (await buildWorkflowBundle()).code;
}

async function plainBundle(workflowsPath: string): Promise<string> {
  const { bundleWorkflowCode, DefaultLogger } = await import('@temporalio/worker');
  return (await bundleWorkflowCode({ workflowsPath, logger: new DefaultLogger('WARN') })).code;
}
