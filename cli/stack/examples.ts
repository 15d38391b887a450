/** The table that the example tool `db.write` writes and `search.read` reads: its own schema, its own role, nothing of the ledger within reach. */
import pg from 'pg';

/** One row per version of a record: two writes of one call are one row, by the key that both carry. */
const SCHEMA = `
  CREATE SCHEMA IF NOT EXISTS examples;
  CREATE TABLE IF NOT EXISTS examples.records (
    idempotency_key text PRIMARY KEY,
    key             text NOT NULL,
    value           jsonb NOT NULL,
    written_by_call text NOT NULL,
    written_at      timestamptz NOT NULL DEFAULT clock_timestamp()
  );
  CREATE INDEX IF NOT EXISTS records_newest ON examples.records (key, written_at DESC);
  GRANT USAGE ON SCHEMA examples TO holdpoint_examples;
  GRANT SELECT, INSERT ON examples.records TO holdpoint_examples;
`;

/** Makes schema, table and the role `holdpoint_examples`. Safe to run again and by two processes at once. */
export async function prepareExamples(adminUrl: string, password: string): Promise<void> {
  const client = new pg.Client({ connectionString: adminUrl, application_name: 'holdpoint-examples' });
  await client.connect();
  try {
    await client.query('BEGIN');
    await client.query(`SELECT pg_advisory_xact_lock(hashtext('holdpoint-examples'))`);
    const known = await client.query(`SELECT 1 FROM pg_roles WHERE rolname = 'holdpoint_examples'`);
    await client.query(`${known.rowCount === 0 ? 'CREATE' : 'ALTER'} ROLE holdpoint_examples LOGIN PASSWORD ${client.escapeLiteral(password)}`);
    await client.query(SCHEMA);
    await client.query('COMMIT');
  } finally {
    await client.end();
  }
}

/** The same database, as another role. */
export function asRole(adminUrl: string, role: string, password: string): string {
  const url = new URL(adminUrl);
  url.username = role;
  url.password = password;
  return url.href;
}
