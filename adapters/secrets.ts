/** Secrets by file, as containers get them: not in the environment, which child processes and whoever inspects a container see. */
import { readFileSync } from 'node:fs';
import { HoldpointError, messageOf } from '../core/errors.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/**
 * What the file holds, without one line break at its end.
 *
 * @param variable the environment variable that names the file, for the message
 * @throws HoldpointError `usage` when it cannot be read or is empty
 */
export function readSecret(variable: string, path: string): string {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    throw unusable(variable, path, `cannot be read: ${messageOf(error)}`, error);
  }
  const secret = text.replace(/\r?\n$/, '');
  if (secret.trim() === '') throw unusable(variable, path, 'is empty');
  return secret;
}

/**
 * The environment with the secrets filled in that `DATABASE_PASSWORD_FILE` and `TEMPORAL_API_KEY_FILE` name, and without these
 * two: a second call changes nothing. The process's own environment stays as it is.
 *
 * @throws HoldpointError `usage` when a file cannot be used, or a secret is given in both ways
 */
export function withSecretFiles(env: Environment): Environment {
  const filled: Record<string, string | undefined> = { ...env };
  const { DATABASE_PASSWORD_FILE: passwordFile, TEMPORAL_API_KEY_FILE: keyFile } = filled;
  delete filled.DATABASE_PASSWORD_FILE;
  delete filled.TEMPORAL_API_KEY_FILE;
  if (passwordFile) filled.DATABASE_URL = withPassword(filled.DATABASE_URL, passwordFile);
  if (keyFile) {
    if (filled.TEMPORAL_API_KEY) throw givenTwice('TEMPORAL_API_KEY', 'TEMPORAL_API_KEY_FILE');
    filled.TEMPORAL_API_KEY = readSecret('TEMPORAL_API_KEY_FILE', keyFile);
  }
  return filled;
}

/** The same, without variables that have no value, which Temporal's own configuration does not take. */
export function temporalEnvironment(env: Environment): Record<string, string> {
  return Object.fromEntries(Object.entries(withSecretFiles(env)).filter((entry): entry is [string, string] => entry[1] !== undefined));
}

function withPassword(address: string | undefined, file: string): string {
  if (address === undefined || !URL.canParse(address))
    throw new HoldpointError('usage', 'DATABASE_PASSWORD_FILE is set, and DATABASE_URL is no postgres:// address to fill the password into');
  const url = new URL(address);
  if (url.password !== '' || url.searchParams.has('password')) throw givenTwice('the password in DATABASE_URL', 'DATABASE_PASSWORD_FILE');
  url.password = encodeURIComponent(readSecret('DATABASE_PASSWORD_FILE', file));
  return url.href;
}

function unusable(variable: string, path: string, problem: string, cause?: unknown): HoldpointError {
  return new HoldpointError('usage', `the secret ${variable}=${path} ${problem}`, {
    cause,
    hint: 'with docker-compose.yml: node deploy/make-secrets.mjs makes all secrets',
  });
}

function givenTwice(one: string, other: string): HoldpointError {
  return new HoldpointError('usage', `${one} and ${other} are both given`, { hint: 'give one of them' });
}
