/** The full Temporal server on PostgreSQL, as in production: all its services in one process, certificates for everybody. */
import { execFile, spawn, type ChildProcess } from 'node:child_process';
import { randomBytes, randomInt } from 'node:crypto';
import { once } from 'node:events';
import { closeSync, openSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { isGrpcServiceError } from '@temporalio/client';
import pg from 'pg';
import { claimPort } from '../../cli/stack/ports.ts';
import { waitUntil } from '../../cli/stack/processes.ts';
import { messageOf } from '../../core/errors.ts';
import { makeCertificates, type Certificates } from './certificates.ts';
import { lazyConnection, plainEnvironment, type TemporalEnvironment } from './environment.ts';
import { configuration, servicesOf, type Authorization, type Databases } from './full-server-config.ts';
import type { ServerBinaries } from './server-binaries.ts';

const exec = promisify(execFile);
const DEPLOY = fileURLToPath(new URL('../../deploy/temporal/', import.meta.url));
const NOT_FOUND = 5;

export interface FullServerOptions {
  binaries: ServerBinaries;
  /** The `temporal` command line. */
  program: string;
  /** Superuser's address on the PostgreSQL server that gets the databases. */
  databaseAdminUrl: string;
  /** For configuration, certificates and the log `temporal.log`. */
  folder: string;
  /** False: no TLS at all. Default: clients and services need a certificate. */
  tls?: boolean;
  historyShards?: number;
  /** Clients need a token beside their certificate. */
  authorization?: Authorization;
}

export interface FullServer {
  address: string;
  /** The standard Temporal environment of a client, certificate included. */
  environment: TemporalEnvironment;
  /** Variables for another run of the setup scripts in deploy/temporal. */
  setup: { schema: Record<string, string>; namespace: Record<string, string> };
  logFile: string;
  pid(): number;
  stop(): Promise<void>;
  /** `kill -9`. */
  kill(): Promise<void>;
  /** Starts it again on the same ports and databases. */
  restart(): Promise<void>;
}

/** Makes databases, certificates and configuration, starts the server and makes the namespace `default`. */
export async function startFullServer(options: FullServerOptions): Promise<FullServer> {
  const { folder, authorization } = options;
  await mkdir(join(folder, 'config'), { recursive: true });
  const certificates = options.tls === false ? undefined : await makeCertificates(join(folder, 'tls'));
  const { databases, schema } = await makeDatabases(options);
  const server = serverProcess(options.binaries.server, folder, servicesOf(authorization));
  let address = '';
  let environment: TemporalEnvironment = {};
  // A free port can be taken before the server has it.
  await repeatedly(async () => {
    const ports = await smallPorts(servicesOf(authorization).length * 2);
    const facts = { databases, ports, historyShards: options.historyShards ?? 4, certificates, authorization };
    await writeFile(join(folder, 'config', 'full.yaml'), configuration(facts), { mode: 0o600 });
    address = `127.0.0.1:${ports[0]}`;
    environment = { ...clientEnvironment(address, certificates), ...(authorization && { TEMPORAL_API_KEY: authorization.apiKey }) };
    await server.launch(environment);
  });
  const namespace = { ...environment, TEMPORAL_CLI: options.program };
  try {
    await runScript('create-namespace.sh', namespace);
  } catch (error) {
    await server.end('SIGKILL');
    throw error;
  }
  return {
    address,
    environment,
    setup: { schema, namespace },
    logFile: server.logFile,
    pid: server.pid,
    stop: () => server.end('SIGTERM'),
    kill: () => server.end('SIGKILL'),
    async restart() {
      await server.end('SIGTERM');
      await repeatedly(() => server.launch(environment));
    },
  };
}

/** The server notes its ports in PostgreSQL as a smallint. Linux gives no outgoing connection a port below 32768. */
async function smallPorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) {
    const port = randomInt(12_000, 32_768);
    await claimPort(port, 'the Temporal server', '').then(
      () => ports.add(port),
      () => {},
    );
  }
  return [...ports];
}

function serverProcess(program: string, folder: string, services: string[]) {
  const logFile = join(folder, 'temporal.log');
  const args = ['--root', folder, '--config', 'config', '--env', 'full', 'start', ...services.flatMap((name) => ['--service', name])];
  let child: ChildProcess | undefined;
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child === undefined || hasEnded(child)) return;
    const closed = once(child, 'close');
    child.kill(signal);
    const patience = setTimeout(() => child?.kill('SIGKILL'), 10_000);
    await closed;
    clearTimeout(patience);
  };
  const launch = async (environment: TemporalEnvironment): Promise<void> => {
    const log = openSync(logFile, 'a', 0o600);
    child = spawn(program, args, { env: {}, stdio: ['ignore', log, log], detached: true });
    child.on('error', () => {});
    closeSync(log);
    try {
      await answers(environment, child);
    } catch (error) {
      await end('SIGKILL');
      const words = (await readFile(logFile, 'utf8'))
        .trim()
        .split('\n')
        .slice(-3)
        .map((line) => line.slice(0, 300))
        .join('\n');
      throw new Error(`the Temporal server did not start: ${messageOf(error)}\n${words}`, { cause: error });
    }
  };
  return { logFile, launch, end, pid: () => child?.pid ?? 0 };
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
}

/** Until the history service answers too: it takes its shards after the frontend is there. */
async function answers(environment: TemporalEnvironment, child: ChildProcess): Promise<void> {
  const connection = lazyConnection(environment);
  let last: unknown = new Error('no answer');
  try {
    const ready = await waitUntil(
      async () => {
        if (hasEnded(child)) throw new Error('the process ended at once');
        try {
          const execution = { workflowId: 'nobody' };
          await connection.withDeadline(Date.now() + 2_000, () =>
            connection.workflowService.describeWorkflowExecution({ namespace: 'temporal-system', execution }),
          );
        } catch (error) {
          last = error;
        }
        return isGrpcServiceError(last) && last.code === NOT_FOUND;
      },
      30_000,
      50,
    );
    if (!ready) throw last;
  } finally {
    await connection.close();
  }
}

async function repeatedly(start: () => Promise<void>): Promise<void> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      return await start();
    } catch (error) {
      if (attempt >= 4) throw error;
      await sleep(500);
    }
  }
}

/** Runs one of the setup scripts in deploy/temporal. @returns what it printed */
export async function runScript(name: 'setup-schema.sh' | 'create-namespace.sh', variables: Record<string, string>): Promise<string> {
  const { stdout, stderr } = await exec('sh', [join(DEPLOY, name)], { env: { PATH: process.env.PATH ?? '', HOME: '/nonexistent', ...variables } });
  return stdout + stderr;
}

/** Databases of their own, owned by a role that may do nothing else, so that several servers share one PostgreSQL. */
async function makeDatabases({ databaseAdminUrl, folder, binaries }: FullServerOptions): Promise<{ databases: Databases; schema: Record<string, string> }> {
  const user = `temporal_${randomBytes(6).toString('hex')}`;
  const password = randomBytes(18).toString('base64url');
  const admin = new pg.Client({ connectionString: databaseAdminUrl });
  await admin.connect();
  try {
    await admin.query(`CREATE ROLE ${user} LOGIN CREATEDB PASSWORD '${password}'`);
  } finally {
    await admin.end();
  }
  const passwordFile = join(folder, 'database-password');
  await writeFile(passwordFile, password, { mode: 0o600 });
  const { hostname: host, port } = new URL(databaseAdminUrl);
  const databases = { host, port, user, password, main: user, visibility: `${user}_visibility` };
  const schema = {
    SQL_HOST: host,
    SQL_PORT: port,
    SQL_USER: user,
    SQL_PASSWORD_FILE: passwordFile,
    SQL_TOOL: binaries.sqlTool,
    DBNAME: databases.main,
    VISIBILITY_DBNAME: databases.visibility,
  };
  await runScript('setup-schema.sh', schema);
  return { databases, schema };
}

function clientEnvironment(address: string, certificates: Certificates | undefined): TemporalEnvironment {
  if (certificates === undefined) return plainEnvironment(address);
  return {
    ...plainEnvironment(address),
    TEMPORAL_TLS: 'true',
    TEMPORAL_TLS_SERVER_NAME: 'localhost',
    TEMPORAL_TLS_SERVER_CA_CERT_PATH: certificates.ca,
    TEMPORAL_TLS_CLIENT_CERT_PATH: certificates.client.cert,
    TEMPORAL_TLS_CLIENT_KEY_PATH: certificates.client.key,
  };
}
