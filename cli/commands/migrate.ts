/** `holdpoint migrate`: the schema and the two roles of a database, for those who start `worker` and `serve` themselves. */
import { migrate as migrateDatabase } from '../../adapters/database.ts';
import { readSecret, withSecretFiles } from '../../adapters/secrets.ts';
import { HoldpointError } from '../../core/errors.ts';
import type { CommonOptions } from '../context.ts';
import { print, printJson } from '../output.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** What `migrate` needs to know. */
export interface MigrateConfig {
  /** Address with the password of the database's owner. */
  readonly databaseUrl: string;
  readonly passwords: { readonly worker: string; readonly serve: string };
}

/** @throws HoldpointError `usage` that names the variable that is missing or wrong */
export function readMigrateConfig(env: Environment): MigrateConfig {
  const databaseUrl = withSecretFiles(env).DATABASE_URL;
  if (!databaseUrl || !/^postgres(ql)?:\/\//.test(databaseUrl))
    throw new HoldpointError('usage', 'migrate cannot start: DATABASE_URL is no postgres:// address', {
      hint: 'set it to the database, as its owner: postgres://owner@host/holdpoint, and DATABASE_PASSWORD_FILE to the file of the password',
    });
  return {
    databaseUrl,
    passwords: { worker: passwordOf(env, 'HOLDPOINT_WORKER_PASSWORD_FILE'), serve: passwordOf(env, 'HOLDPOINT_SERVE_PASSWORD_FILE') },
  };
}

function passwordOf(env: Environment, variable: string): string {
  const path = env[variable];
  if (path) return readSecret(variable, path);
  throw new HoldpointError('usage', `migrate cannot start: ${variable} is not set`, { hint: `set ${variable} to a file that holds the password of the role` });
}

export async function migrate(options: CommonOptions): Promise<number> {
  const { databaseUrl, passwords } = readMigrateConfig(process.env);
  const applied = await migrateDatabase(databaseUrl, passwords);
  if (options.json === true) printJson({ applied });
  else print(applied.length === 0 ? 'The schema is up to date.' : `Applied ${applied.map((version) => `migration ${version}`).join(', ')}.`);
  return 0;
}
