/** The database that tests copy. */
import pg from 'pg';
import { migrate } from '../../adapters/database.ts';
import { prepareExamples } from '../../cli/stack/examples.ts';
import { PASSWORDS, TEMPLATE } from './names.ts';

/** Roles belong to the whole server, so only one process may make them. */
export async function makeTemplate(adminUrl: string): Promise<void> {
  const client = new pg.Client({ connectionString: adminUrl });
  await client.connect();
  await client.query(`CREATE DATABASE ${TEMPLATE}`);
  await client.end();
  const url = new URL(adminUrl);
  url.pathname = `/${TEMPLATE}`;
  await migrate(url.href, PASSWORDS);
  await prepareExamples(url.href, PASSWORDS.examples);
}
