/** A transaction on a pipelined connection is all or nothing, whatever fails and wherever. */
import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest';
import { appendAudit, lockHead } from '../../adapters/chain.ts';
import { createPool, type Pool, prepared, transaction } from '../../adapters/database.ts';
import { auditFacts } from '../../core/audit.ts';
import { freshDatabase, type TestDatabase } from '../support/index.ts';

let database: TestDatabase;
let pool: Pool;
beforeAll(async () => {
  database = await freshDatabase();
});
afterAll(() => database.drop());
beforeEach(async () => {
  pool = createPool(database.adminUrl, { name: 'test', pipeline: true, max: 1 });
  return () => pool.end();
});

const SWITCH = `INSERT INTO controls (scope, engaged, changed_by) VALUES ('global', true, 'x')`;
const written = async (): Promise<unknown[]> => (await pool.query('SELECT scope FROM controls')).rows;
const failureOf = (work: Promise<unknown>): Promise<string> =>
  work.then(
    () => 'resolved',
    (error: unknown) => String(error),
  );

test('a write that fails on this side, before it reaches the server, commits nothing', async () => {
  const failing = transaction(pool, async (client, { later, begun }) => {
    const [head] = await Promise.all([lockHead(client, 'run_x'), begun]);
    later(client.query(SWITCH));
    later(appendAudit(client, head, auditFacts({ event_key: 'k', outcome: 'allow', detail: (2 ** 60) as never }), head.at));
  });
  expect(await failureOf(failing)).not.toBe('resolved');
  expect(await written()).toEqual([]);
});

test('a write that fails in the middle rolls everything back, is the error that is told, and leaves the connection fit', async () => {
  const failing = transaction(pool, async (client, { later, begun }) => {
    await Promise.all([lockHead(client, 'run_x'), begun]);
    later(client.query(SWITCH));
    later(client.query(prepared('SELECT 1 / $1::int', [0])));
    later(client.query(prepared('SELECT $1::int', [1])));
  });
  expect(await failureOf(failing)).toContain('division by zero');
  expect(await written()).toEqual([]);
  expect((await pool.query(prepared('SELECT $1::int', [7]))).rows).toEqual([{ int4: 7 }]);
});

test('a write that misses its row commits nothing', async () => {
  const failing = transaction(pool, async (client, { later }) => {
    later(client.query(SWITCH));
    later(
      client.query(
        `WITH changed AS (UPDATE calls SET fence = 1 WHERE run_id = 'nobody' RETURNING 1) SELECT expect_one((SELECT count(*) FROM changed), 'calls')`,
      ),
    );
  });
  expect(await failureOf(failing)).toContain('0 rows of calls');
  expect(await written()).toEqual([]);
});

test('a BEGIN that fails on a connection that lives on commits nothing: no write goes out without it', async () => {
  const client = await pool.connect();
  const real = client.query.bind(client) as (...args: unknown[]) => unknown;
  // As pg_cancel_backend would have it.
  (client as { query: unknown }).query = (...args: unknown[]) => real(...(args[0] === 'BEGIN' ? ['SELECT 1/0'] : args));
  client.release();
  const failing = transaction(pool, async (begunClient, { later, begun }) => {
    await Promise.all([lockHead(begunClient, 'run_x'), begun]);
    later(begunClient.query(SWITCH));
  });
  expect(await failureOf(failing)).toContain('division by zero');
  expect(await written()).toEqual([]);
});

test('a server that goes away between the writes and the commit fails the transaction; the next one gets a new connection', async () => {
  const failing = transaction(pool, async (client, { later, begun }) => {
    await Promise.all([lockHead(client, 'run_x'), begun]);
    later(client.query(SWITCH));
    later(client.query('SELECT pg_terminate_backend(pg_backend_pid())'));
  });
  expect(await failureOf(failing)).toMatch(/terminat/i);
  expect(await written()).toEqual([]);
});
