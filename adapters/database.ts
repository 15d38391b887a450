/** Connection pool and migrations. */
import { createHash } from 'node:crypto';
import { readdir, readFile } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import pg from 'pg';
import { HoldpointError, messageOf } from '../core/errors.ts';

// Counters and sequence numbers fit a double by far; strings would leak into hashes.
pg.types.setTypeParser(pg.types.builtins.INT8, Number);

export type Pool = pg.Pool;
export type Client = pg.PoolClient;

/**
 * A pool that gives up on a stuck transaction instead of holding a run's lock for ever.
 *
 * @param options.pipeline statements are sent without waiting for the answer of the one before
 */
export function createPool(databaseUrl: string, options: { max?: number; name: string; pipeline?: boolean }): Pool {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    max: options.max ?? 20,
    application_name: options.name,
    pipeline: options.pipeline ?? false,
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

/** What a transaction on a pipelined connection needs besides its client. */
export interface Pipelined {
  /** Takes a write that is not waited for before the commit. Each must fail by itself when it did not do what it should. */
  later(write: Promise<unknown>): void;
  /** Waited for together with the first statement: without BEGIN no lock lasts, and every write would stand alone. */
  readonly begun: Promise<unknown>;
}

/**
 * Runs `work` in one READ COMMITTED transaction. On a pipelined connection the first statement is sent together with BEGIN, and
 * COMMIT together with the writes that were handed to `later`: a commit after a statement that failed is a rollback.
 *
 * @returns what `work` did, once it is committed
 */
export async function transaction<T>(pool: Pool, work: (client: Client, pipelined: Pipelined) => Promise<T>): Promise<T> {
  const client = await connect(pool);
  const writes: Promise<unknown>[] = [];
  let failed = false;
  const later = (write: Promise<unknown>): void => {
    write.catch(() => (failed = true));
    writes.push(write);
  };
  let broken: Error | undefined;
  try {
    const begun = client.query('BEGIN');
    later(begun);
    if (!client.pipeline) await begun;
    const result = await work(client, { later, begun });
    // What fails on this side never reaches the server, which would commit the rest: it has failed by the next turn.
    await nextTurn();
    if (failed || !client.pipeline) await Promise.all(writes);
    const [{ command }] = await Promise.all([client.query('COMMIT'), ...writes]);
    if (command !== 'COMMIT') throw new HoldpointError('internal', `the database answered COMMIT with ${command}`);
    return result;
  } catch (error) {
    await client.query('ROLLBACK').catch((rollback: unknown) => {
      broken = rollback instanceof Error ? rollback : new Error(messageOf(rollback));
    });
    // A write that failed is the reason why what came after it failed, too.
    const first = (await Promise.allSettled(writes)).find((write) => write.status === 'rejected');
    throw first ? first.reason : error;
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

/** SQL states that are answered in words of their own. */
const NO_SUCH_TABLE = '42P01';
const NOT_ALLOWED = '42501';

/**
 * One clear sentence at start instead of a failing statement somewhere.
 *
 * @throws HoldpointError `database_unreachable`, `missing_part` when the schema is not there or older than this build
 */
export async function refuseOldSchema(pool: Pool): Promise<void> {
  const needed = versionOf((await migrationFiles()).at(-1) ?? '0');
  const found = await schemaVersion(pool);
  if (found >= needed) return;
  throw new HoldpointError(
    'missing_part',
    found === 0 ? 'the database has no Holdpoint schema' : `the schema of the database has version ${found}, this build needs ${needed}`,
    { hint: 'run holdpoint migrate with the DATABASE_URL of the owner of the database' },
  );
}

async function schemaVersion(pool: Pool): Promise<number> {
  try {
    const { rows } = await pool.query<{ version: number | null }>('SELECT max(version) AS version FROM schema_migrations');
    return rows[0]?.version ?? 0;
  } catch (error) {
    if (stateOf(error) === NO_SUCH_TABLE) return 0;
    throw unreachable(error);
  }
}

const stateOf = (error: unknown): unknown => (error instanceof Error && 'code' in error ? error.code : undefined);

function unreachable(error: unknown): HoldpointError {
  return new HoldpointError('database_unreachable', `the database cannot be used: ${messageOf(error)}`, {
    cause: error,
    hint: 'check DATABASE_URL and, when the password comes from a file, DATABASE_PASSWORD_FILE',
  });
}

/**
 * Brings a database to the newest schema and makes the two roles. Needs the database's owner, who may make roles
 * (CREATEROLE), or a superuser. Safe to run twice and by two processes at once.
 *
 * @returns versions that were applied now
 * @throws HoldpointError `database_unreachable`, `forbidden` when the owner lacks a right
 */
export async function migrate(adminUrl: string, passwords: { worker: string; serve: string }): Promise<number[]> {
  const client = new pg.Client({ connectionString: adminUrl, application_name: 'holdpoint-migrate', connectionTimeoutMillis: 10_000 });
  client.on('error', () => {});
  try {
    await client.connect();
  } catch (error) {
    throw unreachable(error);
  }
  try {
    await client.query(`SELECT pg_advisory_lock(hashtext('holdpoint-migrate'))`);
    await makeRoles(client, { holdpoint_worker: passwords.worker, holdpoint_serve: passwords.serve });
    return await makeSchema(client, ['holdpoint_worker', 'holdpoint_serve']);
  } finally {
    await client.end();
  }
}

/** Both or none. */
async function makeRoles(client: pg.Client, passwords: Readonly<Record<string, string>>): Promise<void> {
  try {
    await client.query('BEGIN');
    for (const [role, password] of Object.entries(passwords)) {
      const exists = await client.query('SELECT 1 FROM pg_roles WHERE rolname = $1', [role]);
      await client.query(`${exists.rowCount === 0 ? 'CREATE' : 'ALTER'} ROLE ${role} LOGIN PASSWORD ${client.escapeLiteral(password)}`);
    }
    await client.query('COMMIT');
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    if (stateOf(error) !== NOT_ALLOWED) throw error;
    const roles = Object.keys(passwords).join(', ');
    const { me, mayMakeRoles } = await whoAmI(client);
    throw lacksRight(
      error,
      `${me} may not make or change the roles ${roles}`,
      mayMakeRoles ? `GRANT ${roles} TO ${me} WITH ADMIN OPTION` : `ALTER ROLE ${me} CREATEROLE`,
    );
  }
}

/** The schema. The roles may enter, too, when the database does not let in everybody, as on a server shared with others. */
async function makeSchema(client: pg.Client, roles: readonly string[]): Promise<number[]> {
  const { me, base } = await whoAmI(client);
  try {
    await client.query(`GRANT CONNECT ON DATABASE ${base} TO ${roles.join(', ')}`);
    return await applyMissing(client);
  } catch (error) {
    await client.query('ROLLBACK').catch(() => {});
    if (stateOf(error) !== NOT_ALLOWED) throw error;
    throw lacksRight(error, `${me} does not own the database ${base} and all in it`, `ALTER DATABASE ${base} OWNER TO ${me}`);
  }
}

/** Names ready to stand in a statement. */
async function whoAmI(client: pg.Client): Promise<{ me: string; base: string; mayMakeRoles: boolean }> {
  const { rows } = await client.query<{ me: string; base: string; mayMakeRoles: boolean }>(
    `SELECT quote_ident(rolname) AS me, quote_ident(current_database()) AS base, rolcreaterole AS "mayMakeRoles" FROM pg_roles WHERE rolname = current_user`,
  );
  return rows[0] ?? { me: 'the current role', base: 'the current one', mayMakeRoles: false };
}

function lacksRight(cause: unknown, what: string, statement: string): HoldpointError {
  return new HoldpointError('forbidden', `${what}: ${messageOf(cause)}`, { cause, hint: `as a superuser: ${statement}` });
}

async function migrationFiles(): Promise<string[]> {
  return (await readdir(MIGRATIONS)).filter((name) => name.endsWith('.sql')).sort();
}

const versionOf = (file: string): number => Number.parseInt(file, 10);

async function applyMissing(client: pg.Client): Promise<number[]> {
  await client.query(`CREATE TABLE IF NOT EXISTS schema_migrations (
    version integer PRIMARY KEY, name text NOT NULL, sha256 text NOT NULL, applied_at timestamptz(3) NOT NULL DEFAULT clock_timestamp())`);
  const applied = new Map(
    (await client.query<{ version: number; sha256: string }>('SELECT version, sha256 FROM schema_migrations')).rows.map((r) => [r.version, r.sha256]),
  );
  const done: number[] = [];
  for (const file of await migrationFiles()) {
    const version = versionOf(file);
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
