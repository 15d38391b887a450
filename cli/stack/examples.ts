/** The table that the example tool `db.write` writes: its own schema, its own role, nothing of the ledger within reach. */
import pg from 'pg';

const SCHEMA = `
  CREATE SCHEMA IF NOT EXISTS examples;
  CREATE TABLE IF NOT EXISTS examples.records (
    idempotency_key text PRIMARY KEY,
    key             text NOT NULL,
    value           json NOT NULL,
    written_by_call text NOT NULL,
    written_at      timestamptz NOT NULL DEFAULT clock_timestamp()
  );
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
