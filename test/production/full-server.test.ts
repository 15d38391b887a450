/** What runs in production, as processes on this machine: full Temporal server, PostgreSQL, mutual TLS, `worker`, `serve`. */
import { execFile } from 'node:child_process';
import { randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { Connection } from '@temporalio/client';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { startPostgres, stopPostgres, type PostgresServer } from '../../cli/stack/postgres.ts';
import type { RunView } from '../../client/types.ts';
import { emailRun, holdpoint, holdpointJson, effects, removeState, stackFile, startUp, stopUp } from '../e2e/cli.ts';
import { Parts, pendingOf, SEND, WRITE } from '../fault/parts.ts';
import { makeCertificates } from '../support/certificates.ts';
import { connect } from '../support/environment.ts';
import { runScript, startFullServer, type FullServer } from '../support/full-server.ts';
import { eventually, freshDatabase, temporaryFolder } from '../support/index.ts';
import { ensureServerBinaries, type ServerBinaries } from '../support/server-binaries.ts';
import { makeTemplate } from '../support/template.ts';

const DYNAMIC_CONFIG = fileURLToPath(new URL('../../deploy/temporal/dynamic-config.yaml', import.meta.url));
const POLICY = `
approvals: { required_for: [email.send, db.write], ttl_seconds: 300 }
policy: { tool_allowlist: [email.send, db.write] }
`;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let binaries: ServerBinaries;
let postgres: PostgresServer;
let temporal: FullServer;
let parts: Parts;

beforeAll(async () => {
  folder = await temporaryFolder('holdpoint-test-production-');
  binaries = await ensureServerBinaries((message) => void process.stderr.write(`${message}\n`));
  await startDatabase();
  const [server] = await Promise.all([
    startFullServer({ binaries, program: inject('temporalProgram'), databaseAdminUrl: postgres.adminUrl, folder: join(folder.path, 'temporal') }),
    makeTemplate(postgres.adminUrl),
  ]);
  temporal = server;
  parts = await Parts.start({ config: POLICY, temporal: temporal.environment, databaseServer: postgres.adminUrl });
}, 600_000);
afterAll(async () => {
  try {
    await parts?.close();
  } finally {
    await temporal?.stop();
    if (postgres !== undefined) {
      await stopPostgres(postgres.process);
      await rm(postgres.home, { recursive: true, force: true });
    }
    await folder.remove();
  }
});

/** As in production: what is committed is on the disk. Later starts take the port of the first. */
async function startDatabase(): Promise<void> {
  const port = postgres === undefined ? 0 : Number(new URL(postgres.adminUrl).port);
  postgres = await startPostgres({ folder: join(folder.path, 'pg'), logFile: join(folder.path, 'postgres.log'), port }, () => {});
}

async function killDatabase(): Promise<void> {
  const closed = once(postgres.process, 'close');
  postgres.process.kill('SIGKILL');
  await closed;
}

/** A run that has come to wait for a person before the fault and is approved after it. */
async function survives(fault: () => Promise<void>): Promise<void> {
  const run = await parts.run([SEND]);
  expect(run.status).toBe('waiting');
  await fault();
  expect(await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' })).toMatchObject({ status: 'accepted' });
  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'completed' });
  expect(await parts.effects(run.run_id)).toHaveLength(1);
  expect(await parts.events(run.run_id)).toEqual(['run_started', 'approval_required', 'approval_granted', 'execution_started', 'allow', 'run_stopped']);
}

describe('the three scenarios', () => {
  test('a mail that is approved is sent once', () => survives(async () => {}));

  test('a write that nobody answers is not executed', async () => {
    const run = await parts.run([WRITE], { ttl_seconds: 1 });
    expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'approval_timeout' });
    expect(await parts.effects(run.run_id)).toEqual([]);
  });

  test('a write outside the allowed scope is denied and nobody is asked', async () => {
    const run = await parts.run([{ tool: 'crm.delete_contact', args: { contact_id: 'C-1' } }]);
    expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'policy_denied', pending: [] });
    expect(await parts.effects(run.run_id)).toEqual([]);
  });
});

// A database that was killed syncs every file before it answers: seconds, on a busy disk many.
describe('a run that waits, approved afterwards, has exactly one effect', { timeout: 180_000 }, () => {
  test('after kill -9 of the Temporal server', () =>
    survives(async () => {
      await temporal.kill();
      await temporal.restart();
    }));

  test('after kill -9 of PostgreSQL, which holds both the ledger and what Temporal knows', () =>
    survives(async () => {
      await killDatabase();
      await startDatabase();
    }));

  test('after kill -9 of everything at once', () =>
    survives(async () => {
      await Promise.all([temporal.kill(), killDatabase(), parts.stop('worker'), parts.stop('serve')]);
      await startDatabase();
      await temporal.restart();
      await parts.startServe();
      await parts.startWorker();
    }));
});

describe('the server', () => {
  test('refuses a client without a certificate, with one of another authority, and one without TLS', async () => {
    const { ca, client } = await makeCertificates(join(folder.path, 'strangers'));
    const serverRootCACertificate = await readFile(temporal.environment.TEMPORAL_TLS_SERVER_CA_CERT_PATH!);
    const clientCertPair = { crt: await readFile(client.cert), key: await readFile(client.key) };
    const strangers = [{ serverRootCACertificate }, { serverRootCACertificate, clientCertPair }, { serverRootCACertificate: await readFile(ca) }, false];
    for (const tls of strangers) await expect(Connection.connect({ address: temporal.address, tls, connectTimeout: '2s' })).rejects.toThrow();
    await (await connect(temporal.environment)).close();
  });

  test('uses its databases as a role that is no superuser', async () => {
    const [role] = await query(postgres.adminUrl, 'SELECT rolsuper, rolcreaterole FROM pg_roles WHERE rolname = $1', [temporal.setup.schema.SQL_USER]);
    expect(role).toEqual({ rolsuper: false, rolcreaterole: false });
  });

  test('keeps closed runs for 30 days and knows our search attributes', async () => {
    const connection = await connect(temporal.environment);
    const { config } = await connection.workflowService.describeNamespace({ namespace: 'default' });
    expect(Number(config?.workflowExecutionRetentionTtl?.seconds)).toBe(30 * 86_400);
    const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace: 'default' });
    expect(Object.keys(customAttributes ?? {}).sort()).toEqual(['HoldpointAgent', 'HoldpointStatus', 'HoldpointStopReason']);
    await connection.close();
  });

  test('is not changed by a second run of the setup scripts', async () => {
    const before = await contents();
    await runScript('setup-schema.sh', temporal.setup.schema);
    await runScript('create-namespace.sh', temporal.setup.namespace);
    expect(await contents()).toEqual(before);
  });

  test('has our dynamic configuration: it knows every key, a task queue is one partition, an activity starts eagerly', async () => {
    const { stdout, stderr } = await promisify(execFile)(binaries.server, ['validate-dynamic-config', DYNAMIC_CONFIG]);
    expect(stdout + stderr).not.toMatch(/warn|error|unregistered/i);
    const connection = await connect(temporal.environment);
    const { activityTaskQueuePartitions } = await connection.workflowService.listTaskQueuePartitions({
      namespace: 'default',
      taskQueue: { name: parts.taskQueue },
    });
    expect(activityTaskQueuePartitions).toHaveLength(1);
    expect(await eagerActivities(connection)).toBe(1);
    await connection.close();
  });
});

/** Everything that the setup scripts write: the schema and its versions, and the namespaces with their search attributes. */
async function contents(): Promise<unknown[]> {
  const found: unknown[] = [];
  for (const name of [temporal.setup.schema.DBNAME!, temporal.setup.schema.VISIBILITY_DBNAME!]) {
    const url = new URL(postgres.adminUrl);
    url.pathname = `/${name}`;
    for (const table of ['schema_version', 'schema_update_history']) found.push(await query(url.href, `SELECT * FROM ${table} ORDER BY 1, 2`));
    found.push(await query(url.href, `SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, 2`));
    if (name === temporal.setup.schema.DBNAME) found.push(await query(url.href, 'SELECT * FROM namespaces ORDER BY name'));
  }
  expect(found.flat().length).toBeGreaterThan(100);
  return found;
}

async function query(url: string, sql: string, values: unknown[] = []): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql, values)).rows as unknown[];
  } finally {
    await client.end();
  }
}

/** A worker by hand: asks for an activity in the answer to its first task. @returns how many came with the server's answer */
async function eagerActivities(connection: Connection): Promise<number> {
  const { workflowService: service } = connection;
  const common = { namespace: 'default', identity: 'test' };
  const taskQueue = { name: `eager-${randomUUID()}` };
  const workflowId = `eager-${randomUUID()}`;
  await service.startWorkflowExecution({ ...common, requestId: randomUUID(), workflowId, workflowType: { name: 'any' }, taskQueue });
  const { taskToken } = await connection.withDeadline(Date.now() + 30_000, () => service.pollWorkflowTaskQueue({ ...common, taskQueue }));
  const activity = {
    activityId: '1',
    activityType: { name: 'any' },
    taskQueue,
    startToCloseTimeout: { seconds: 60 as never },
    requestEagerExecution: true,
  };
  const { activityTasks } = await service.respondWorkflowTaskCompleted({
    ...common,
    taskToken,
    commands: [{ commandType: 1, scheduleActivityTaskCommandAttributes: activity }],
  });
  await service.terminateWorkflowExecution({ ...common, workflowExecution: { workflowId } });
  return activityTasks?.length ?? 0;
}

// Last: it gives the ledger's roles, which belong to the whole PostgreSQL server, passwords of its own.
test('holdpoint up with TEMPORAL_ADDRESS, certificates and DATABASE_URL starts the API and the worker alone, and they work', async () => {
  const database = await freshDatabase(postgres.adminUrl);
  const stateDir = join(folder.path, 'state');
  const env = { ...temporal.environment, DATABASE_URL: database.adminUrl, HOLDPOINT_TASK_QUEUE: `up-${randomUUID()}` };
  const up = await startUp(stateDir, [], { env });
  try {
    expect((await stackFile(stateDir)).parts.map((part) => part.name).sort()).toEqual(['serve', 'worker']);
    expect(up.addresses).toMatchObject({ temporal_address: temporal.address, temporal_web: null, database_url: database.adminUrl });
    const { data: run } = await holdpointJson<RunView>(['run', '-'], { stateDir, input: emailRun() });
    expect((await holdpoint(['approve', run.pending_id!], { stateDir })).code).toBe(0);
    const stopped = await eventually(async () => {
      const { data } = await holdpointJson<RunView>(['show', run.run_id], { stateDir });
      return data.status === 'stopped' ? data : undefined;
    }, 'the run ends');
    expect(stopped.stop_reason).toBe('completed');
    expect(await effects(stateDir)).toHaveLength(1);
    expect(await holdpointJson(['doctor'], { stateDir, env })).toMatchObject({ code: 0, data: { ok: true } });
  } finally {
    await stopUp(up);
    await removeState(stateDir);
  }
}, 120_000);
