import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, expect, test } from 'vitest';
import { readSecret, temporalEnvironment, withSecretFiles } from '../../adapters/secrets.ts';
import { readMigrateConfig } from '../../cli/commands/migrate.ts';
import { readServerConfig } from '../../server/config.ts';
import { readWorkerConfig } from '../../worker/config.ts';

const folder = mkdtempSync(join(tmpdir(), 'holdpoint-secrets-'));
afterAll(() => rmSync(folder, { recursive: true }));

let count = 0;
function file(text: string): string {
  const path = join(folder, `secret-${(count += 1)}`);
  writeFileSync(path, text);
  return path;
}

const ADDRESS = 'postgres://holdpoint_worker@db.internal:5433/holdpoint?sslmode=verify-full';

test.each(['plain', 'p@ss:w/rd?#%41&é "', ' spaces stay '])('the password %j reaches the database as it stands in the file', (password) => {
  const { DATABASE_URL: connectionString = '' } = withSecretFiles({ DATABASE_URL: ADDRESS, DATABASE_PASSWORD_FILE: file(`${password}\n`) });
  const client = new pg.Client({ connectionString: connectionString.replace('?sslmode=verify-full', '') });
  expect([client.user, client.password, client.host, client.port]).toEqual(['holdpoint_worker', password, 'db.internal', 5433]);
  expect(connectionString).toMatch(/\?sslmode=verify-full$/);
});

test('one line break at the end is not part of a secret, a second is', () => {
  expect(readSecret('X', file('a\n'))).toBe('a');
  expect(readSecret('X', file('a\r\n'))).toBe('a');
  expect(readSecret('X', file('a\n\n'))).toBe('a\n');
  expect(readSecret('X', file('a'))).toBe('a');
});

test('a file that is missing or empty is a usage error that names the variable and the file', () => {
  const missing = join(folder, 'none');
  for (const path of [missing, file(''), file('\n'), folder]) {
    expect(() => withSecretFiles({ DATABASE_URL: ADDRESS, DATABASE_PASSWORD_FILE: path })).toThrow(
      expect.objectContaining({ code: 'usage', message: expect.stringContaining(`DATABASE_PASSWORD_FILE=${path}`) }),
    );
    expect(() => withSecretFiles({ TEMPORAL_API_KEY_FILE: path })).toThrow(expect.objectContaining({ code: 'usage' }));
  }
});

test('a secret that is given in both ways is refused, and shown in no message', () => {
  const twice: [Record<string, string>, RegExp][] = [
    [{ DATABASE_URL: 'postgres://a:hidden@b/c', DATABASE_PASSWORD_FILE: file('x') }, /DATABASE_URL.*DATABASE_PASSWORD_FILE/],
    [{ DATABASE_URL: 'postgres://a@b/c?password=hidden', DATABASE_PASSWORD_FILE: file('x') }, /DATABASE_URL.*DATABASE_PASSWORD_FILE/],
    [{ TEMPORAL_API_KEY: 'hidden', TEMPORAL_API_KEY_FILE: file('x') }, /TEMPORAL_API_KEY.*TEMPORAL_API_KEY_FILE/],
  ];
  for (const [env, message] of twice) {
    expect(() => withSecretFiles(env)).toThrow(message);
    expect(() => withSecretFiles(env)).not.toThrow(/hidden/);
  }
});

test('filling in twice is filling in once, an empty variable is none, and what was given stays as it was', () => {
  const given = { DATABASE_URL: ADDRESS, DATABASE_PASSWORD_FILE: file('x'), TEMPORAL_API_KEY_FILE: file('key\n'), TEMPORAL_API_KEY: '', OTHER: undefined };
  const before = { ...given };
  const once = withSecretFiles(given);
  expect(withSecretFiles(once)).toEqual(once);
  expect(given).toEqual(before);
  expect(temporalEnvironment(given)).toMatchObject({ TEMPORAL_API_KEY: 'key' });
  expect(Object.keys(temporalEnvironment(given))).not.toContain('OTHER');
  expect(withSecretFiles({ DATABASE_URL: ADDRESS, DATABASE_PASSWORD_FILE: '' })).toEqual({ DATABASE_URL: ADDRESS });
});

test('a password file without an address to fill it into is a usage error', () => {
  for (const DATABASE_URL of [undefined, '', 'not an address'])
    expect(() => withSecretFiles({ DATABASE_URL, DATABASE_PASSWORD_FILE: file('x') })).toThrow(/DATABASE_URL is no postgres/);
});

test('worker, serve and migrate all take the password from the file', () => {
  const env = { DATABASE_URL: ADDRESS, DATABASE_PASSWORD_FILE: file('from-file'), HOLDPOINT_CONFIG: 'c', HOLDPOINT_JWKS: 'j' };
  const serve = { HOLDPOINT_KEYS_DIR: 'k', HOLDPOINT_CHECKPOINTS_DIR: 'p' };
  const roles = { HOLDPOINT_WORKER_PASSWORD_FILE: file('w'), HOLDPOINT_SERVE_PASSWORD_FILE: file('s') };
  const configs = [readWorkerConfig(env), readServerConfig({ ...env, ...serve }), readMigrateConfig({ ...env, ...roles })];
  for (const { databaseUrl } of configs) expect(new URL(databaseUrl).password).toBe('from-file');
});
