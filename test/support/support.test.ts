import pg from 'pg';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { connect } from './environment.ts';
import { freshDatabase, type TestDatabase } from './index.ts';

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
