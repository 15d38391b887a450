import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { connect, serverKind } from './environment.ts';
import { freshDatabase, temporaryFolder, type TestDatabase } from './index.ts';
import { ensureServerBinaries } from './server-binaries.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await freshDatabase();
});
afterAll(() => database.drop());

async function answer(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows as unknown[];
  } finally {
    await client.end();
  }
}

test('the worker role reads the ledger and cannot write decisions', async () => {
  expect(await answer(database.workerUrl, 'SELECT count(*)::int AS n FROM audit_events')).toEqual([{ n: 0 }]);
  await expect(answer(database.workerUrl, `INSERT INTO controls (scope, engaged, changed_by) VALUES ('global', false, 'x')`)).rejects.toThrow(
    /permission denied/,
  );
});

test('the role of the example tool sees its own table and nothing of the ledger', async () => {
  expect(await answer(database.examplesUrl, 'SELECT count(*)::int AS n FROM examples.records')).toEqual([{ n: 0 }]);
  await expect(answer(database.examplesUrl, 'SELECT * FROM audit_events')).rejects.toThrow(/permission denied/);
});

test('the Temporal server answers with our search attributes and keeps closed runs for 30 days', async () => {
  const connection = await connect(inject('temporalEnvironment'));
  const found = await connection.workflowService.describeNamespace({ namespace: 'default' });
  expect(Number(found.config?.workflowExecutionRetentionTtl?.seconds)).toBe(30 * 86_400);
  const attributes = await connection.operatorService.listSearchAttributes({ namespace: 'default' });
  expect(Object.keys(attributes.customAttributes ?? {})).toEqual(expect.arrayContaining(['HoldpointStatus', 'HoldpointAgent', 'HoldpointStopReason']));
  await connection.close();
});

test('the switch between the Temporal servers knows two values and refuses every other', () => {
  expect([serverKind({}), serverKind({ HOLDPOINT_TEST_SERVER: 'embedded' }), serverKind({ HOLDPOINT_TEST_SERVER: 'full' })]).toEqual([
    'embedded',
    'embedded',
    'full',
  ]);
  for (const value of ['', 'FULL', 'postgres'])
    expect(() => serverKind({ HOLDPOINT_TEST_SERVER: value })).toThrow(/HOLDPOINT_TEST_SERVER.*"embedded" or "full"/);
});

test('programs that come together are found together or not at all, and the error names the ways to get them', async () => {
  const { path, remove } = await temporaryFolder();
  const env = { PATH: join(path, 'bin'), HOLDPOINT_CACHE_DIR: join(path, 'cache'), HOLDPOINT_NO_DOWNLOAD: '1' };
  const place = async (name: string): Promise<void> => {
    await mkdir(env.PATH, { recursive: true });
    await writeFile(join(env.PATH, name), '', { mode: 0o755 });
  };
  await place('temporal-server');
  await expect(ensureServerBinaries(() => {}, env)).rejects.toMatchObject({ code: 'missing_part', hint: expect.stringMatching(/PATH.*Go/s) });
  await place('temporal-sql-tool');
  expect(await ensureServerBinaries(() => {}, env)).toEqual({ server: join(env.PATH, 'temporal-server'), sqlTool: join(env.PATH, 'temporal-sql-tool') });
  await remove();
});
