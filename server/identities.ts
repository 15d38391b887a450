/** Who may use the API: the identities file at start, API keys at each request. */
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import { type Pool, transaction } from '../adapters/database.ts';
import { IdentitiesFile, type Identity } from '../core/contracts.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import type { Principal } from './ports.ts';

/** Reads the file. @throws HoldpointError `invalid_config` with the field's path */
export async function readIdentities(path: string): Promise<Identity[]> {
  let value: unknown;
  try {
    value = JSON.parse(await readFile(path, 'utf8'));
  } catch (error) {
    throw new HoldpointError('invalid_config', `the identities file ${path} cannot be read: ${messageOf(error)}`, { cause: error });
  }
  const parsed = IdentitiesFile.safeParse(value);
  if (!parsed.success) throw new HoldpointError('invalid_config', `the identities file ${path} cannot be used: ${z.prettifyError(parsed.error)}`);
  const { identities } = parsed.data;
  if (new Set(identities.map((identity) => identity.key_sha256)).size < identities.length) {
    throw new HoldpointError('invalid_config', `the identities file ${path} gives one API key to two identities`);
  }
  if (new Set(identities.map((identity) => identity.principal.toLowerCase())).size < identities.length) {
    throw new HoldpointError('invalid_config', `the identities file ${path} names a principal twice; capitals make no difference`);
  }
  return identities;
}

/** Makes the database say what the file says: others lose their keys and their say. */
export async function applyIdentities(pool: Pool, identities: readonly Identity[]): Promise<void> {
  await transaction(pool, async (client) => {
    await client.query(`SELECT pg_advisory_xact_lock(hashtext('holdpoint-identities'))`);
    for (const { principal, roles, key_sha256 } of identities) {
      await client.query(
        `INSERT INTO approvers (principal, roles, active) VALUES ($1, $2, true) ON CONFLICT (principal) DO UPDATE SET roles = $2, active = true`,
        [principal, roles],
      );
      await client.query(
        `INSERT INTO api_keys (key_sha256, principal, active) VALUES ($1, $2, true) ON CONFLICT (key_sha256) DO UPDATE SET principal = $2, active = true`,
        [key_sha256, principal],
      );
    }
    await client.query('UPDATE approvers SET active = false WHERE active AND principal <> ALL($1)', [identities.map((identity) => identity.principal)]);
    await client.query('UPDATE api_keys SET active = false WHERE active AND key_sha256 <> ALL($1)', [identities.map((identity) => identity.key_sha256)]);
  });
}

const BEARER = /^Bearer (hp_[A-Za-z0-9_-]{20,200})$/i;

/** Who an `Authorization` header speaks for. @throws HoldpointError `unauthenticated` */
export async function authenticate(pool: Pool, authorization: string | undefined): Promise<Principal> {
  const key = BEARER.exec(authorization ?? '')?.[1];
  if (key === undefined) throw unauthenticated('the request has no API key: send "Authorization: Bearer hp_..."');
  const { rows } = await pool.query<{ principal: string; roles: string[] }>(
    `SELECT a.principal, a.roles FROM api_keys k JOIN approvers a USING (principal) WHERE k.key_sha256 = $1 AND k.active AND a.active`,
    [createHash('sha256').update(key).digest('hex')],
  );
  if (rows[0]) return rows[0];
  throw unauthenticated('this API key is not known, or no longer');
}

function unauthenticated(message: string): HoldpointError {
  return new HoldpointError('unauthenticated', message, { hint: 'set HOLDPOINT_API_KEY to the key of an identity that serve knows' });
}
