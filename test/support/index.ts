/** What tests share: a database of one's own, folders that vanish, polling. The servers are started by `global-setup.ts`. */
import { randomBytes } from 'node:crypto';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import pg from 'pg';
import { inject } from 'vitest';
import { asRole } from '../../cli/stack/examples.ts';
import { PASSWORDS, TEMPLATE } from './names.ts';

export interface TestDatabase {
  name: string;
  adminUrl: string;
  workerUrl: string;
  serveUrl: string;
  /** Role of the example tool `db.write`. */
  examplesUrl: string;
  drop(): Promise<void>;
}

/** A migrated, empty database of one's own. Call it once per test file, `drop()` it in `afterAll`. */
export async function freshDatabase(server: string = inject('adminDatabaseUrl')): Promise<TestDatabase> {
  const name = `t_${randomBytes(8).toString('hex')}`;
  await withAdmin(server, (client) => client.query(`CREATE DATABASE ${name} TEMPLATE ${TEMPLATE}`));
  const url = new URL(server);
  url.pathname = `/${name}`;
  const adminUrl = url.href;
  return {
    name,
    adminUrl,
    workerUrl: asRole(adminUrl, 'holdpoint_worker', PASSWORDS.worker),
    serveUrl: asRole(adminUrl, 'holdpoint_serve', PASSWORDS.serve),
    examplesUrl: asRole(adminUrl, 'holdpoint_examples', PASSWORDS.examples),
    drop: () => withAdmin(server, async (client) => void (await client.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`))),
  };
}

async function withAdmin<T>(url: string, work: (client: pg.Client) => Promise<T>): Promise<T> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

/** A folder of one's own and the function that removes it. */
export async function temporaryFolder(prefix = 'holdpoint-'): Promise<{ path: string; remove: () => Promise<void> }> {
  const path = await mkdtemp(join(tmpdir(), prefix));
  return { path, remove: () => rm(path, { recursive: true, force: true }) };
}

/** Asks until the answer is something other than undefined; fails with `what` when the time has passed. */
export async function eventually<T>(ask: () => Promise<T | undefined> | T | undefined, what: string, timeoutMs = 20_000): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const answer = await ask();
    if (answer !== undefined) return answer;
    if (performance.now() > deadline) throw new Error(`did not happen within ${timeoutMs} ms: ${what}`);
    await sleep(50);
  }
}
