/** Connection pool and migrations. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import pg from 'pg';
import { HoldpointError, messageOf } from '../core/errors.ts';

// Counters and sequence numbers fit a double by far; strings would leak into hashes.
pg.types.setTypeParser(pg.types.builtins.INT8, Number);

export type Pool = pg.Pool;
export type Client = pg.PoolClient;

/** A pool that gives up on a stuck transaction instead of holding a run's lock for ever. */
export function createPool(databaseUrl: string, options: { max?: number; name: string }): Pool {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: options.max ?? 20,
    application_name: options.name,
    connectionTimeoutMillis: 10_000,
    keepAlive: true,
    statement_timeout: 30_000,
    idle_in_transaction_session_timeout: 15_000,
    lock_timeout: 20_000,
  });
  // An idle connection that breaks is replaced by the pool; without a listener it would end the process.
  pool.on('error', () => {});
  // The same for one in use: its next query fails, which is where somebody waits for an answer.
  pool.on('connect', (client) => client.on('error', () => {}));
  return pool;
}

const statementNames = new Map<string, string>();

/**
 * A statement that each connection parses once: parsing is most of what a short statement costs. `text` must come from
 * code, and name its columns: a `*` that means more after a migration would fail on connections from before.
 */
export function prepared(text: string, values: unknown[]): { name: string; text: string; values: unknown[] } {
  let name = statementNames.get(text);
  if (name === undefined) statementNames.set(text, (name = `holdpoint_${statementNames.size + 1}`));
  return { name, text, values };
}

/** Runs `work` in one READ COMMITTED transaction. */
export async function transaction<T>(pool: Pool, work: (client: Client) => Promise<T>): Promise<T> {
  const client = await connect(pool);
  let broken: Error | undefined;
  try {
    await client.query('BEGIN');
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch((rollback: unknown) => {
      broken = rollback instanceof Error ? rollback : new Error(messageOf(rollback));
    });
    throw error;
  } finally {
    client.release(broken);
  }
}

async function connect(pool: Pool): Promise<Client> {
  try {
    return await pool.connect();
  } catch (error) {
    throw new HoldpointError('database_unreachable', `the database does not answer: ${messageOf(error)}`, { cause: error });
  }
}

const MIGRATIONS = new URL('./migrations/', import.meta.url);

/**
 * Brings a database to the newest schema and makes the two roles. Needs a superuser or owner connection. Safe to run
 * twice and by two processes at once.
 *
 * @returns versions that were applied now
 */
export async function migrate(adminUrl: string, passwords: { worker: string; serve: string }): Promise<number[]> {
  const client = new pg.Client({ connectionString: adminUrl, application_name: 'holdpoint-migrate' });
  await client.connect();
  try {
    await client.query(`SELECT pg_advisory_lock(hashtext('holdpoint-migrate'))`);
    await ensureRole(client, 'holdpoint_worker', passwords.worker);
    await ensureRole(client, 'holdpoint_serve', passwords.serve);
    await client.query(`CREATE TABLE IF NOT EXISTS schema_migrations (
      version integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz(3) NOT NULL DEFAULT clock_timestamp())`);
    return await applyMissing(client);
  } finally {
    await client.end();
  }
}

async function ensureRole(client: pg.Client, role: string, password: string): Promise<void> {
  const exists = await client.query('SELECT 1 FROM pg_roles WHERE rolname = $1', [role]);
  const verb = exists.rowCount === 0 ? 'CREATE' : 'ALTER';
  await client.query(`${verb} ROLE ${role} LOGIN PASSWORD ${client.escapeLiteral(password)}`);
}

async function applyMissing(client: pg.Client): Promise<number[]> {
  const files = (await readdir(MIGRATIONS)).filter((name) => name.endsWith('.sql')).sort();
  const applied = new Map(
    (await client.query<{ version: number; sha256: string }>('SELECT version, sha256 FROM schema_migrations')).rows.map((r) => [r.version, r.sha256]),
  );
  const done: number[] = [];
  for (const file of files) {
    const version = Number.parseInt(file, 10);
    const sql = await readFile(new URL(file, MIGRATIONS), 'utf8');
    const digest = createHash('sha256').update(sql).digest('hex');
    const before = applied.get(version);
    if (before === digest) continue;
    if (before !== undefined) {
      throw new HoldpointError('missing_part', `migration ${file} was applied with other contents; this database was made by another build`);
    }
    await client.query('BEGIN');
    await client.query(sql);
    await client.query('INSERT INTO schema_migrations (version, name, sha256) VALUES ($1, $2, $3)', [version, file, digest]);
    await client.query('COMMIT');
    done.push(version);
  }
  return done;
}
