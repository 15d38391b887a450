/** Signing keys of the decision service: made at first start, kept in a directory that only `serve` knows. */
import { chmod, mkdir, open, readdir, readFile, rename, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { calculateJwkThumbprint, type CryptoKey, exportJWK, generateKeyPair, importJWK } from 'jose';
import { z } from 'zod';
import { auditFacts } from '../core/audit.ts';
import { TOKEN_ISSUER } from '../core/contracts.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { SYSTEM_RUN } from '../core/words.ts';
import { appendAudit, ledgerNow, lockHead } from './chain.ts';
import { type Pool, transaction } from './database.ts';
import { type PublicKey, pinKeys, publicKey, type PinnedKeys } from './jws.ts';

export interface SigningKeys {
  /** The newest key: it alone signs. */
  readonly active: { readonly kid: string; readonly privateKey: CryptoKey };
  /** Public halves of all own keys, oldest first, and keys of others that the key set file holds. */
  readonly trusted: readonly PublicKey[];
  readonly pinned: PinnedKeys;
}

const KeyFile = z.object({
  kty: z.literal('OKP'),
  crv: z.literal('Ed25519'),
  x: z.string(),
  d: z.string(),
  kid: z.string(),
  created_at: z.iso.datetime(),
});
type KeyFile = z.infer<typeof KeyFile>;

/**
 * Reads the signing keys, makes one when there is none or `rotate` is set, and writes the public set.
 *
 * @param dir directory of private keys, 0700, one file of mode 0600 per key
 * @param jwksFile public set that workers pin; keys of approvers (with `sub`) in it are kept
 */
export async function openSigningKeys(options: { dir: string; jwksFile: string; rotate?: boolean }): Promise<SigningKeys> {
  const { dir, jwksFile, rotate = false } = options;
  await mkdir(dir, { recursive: true, mode: 0o700 });
  await refuseLoose(dir);
  if (rotate || (await readKeys(dir)).length === 0) await makeKey(dir);
  const keys = await readKeys(dir);
  const newest = keys.at(-1);
  if (!newest) throw new HoldpointError('missing_part', `no signing key could be made in ${dir}`);
  const privateKey = await importJWK({ kty: newest.kty, crv: newest.crv, x: newest.x, d: newest.d }, 'Ed25519');
  if (privateKey instanceof Uint8Array) throw new HoldpointError('invalid_config', `the signing key ${newest.kid} in ${dir} is no Ed25519 key`);
  const trusted = [...keys.map(publicHalf), ...(await foreignKeys(jwksFile))];
  await writeWhole(jwksFile, `${JSON.stringify({ keys: trusted }, null, 2)}\n`, 0o644);
  return { active: { kid: newest.kid, privateKey }, trusted, pinned: await pinKeys(trusted) };
}

function publicHalf({ kty, crv, x, kid }: KeyFile): PublicKey {
  return { kty, crv, x, kid, alg: 'Ed25519', use: 'sig', iss: TOKEN_ISSUER };
}

async function refuseLoose(path: string): Promise<void> {
  const { mode, uid } = await stat(path);
  if ((mode & 0o077) === 0 && (process.getuid === undefined || uid === process.getuid())) return;
  throw new HoldpointError(
    'invalid_config',
    `${path} can be reached by other users (mode ${(mode & 0o777).toString(8)}, owner ${uid}); signing keys must be yours alone`,
    {
      hint: `chmod -R go= ${path}`,
    },
  );
}

async function readKeys(dir: string): Promise<KeyFile[]> {
  const names = (await readdir(dir)).filter((name) => name.endsWith('.key.json'));
  const keys = await Promise.all(names.map((name) => readKey(join(dir, name))));
  return keys.sort((a, b) => a.created_at.localeCompare(b.created_at) || a.kid.localeCompare(b.kid));
}

async function readKey(path: string): Promise<KeyFile> {
  await refuseLoose(path);
  let key: KeyFile;
  try {
    key = KeyFile.parse(JSON.parse(await readFile(path, 'utf8')));
  } catch (error) {
    throw new HoldpointError('invalid_config', `the signing key ${path} cannot be read: ${messageOf(error)}`, { cause: error });
  }
  if ((await thumbprint(key)) === key.kid) return key;
  throw new HoldpointError('invalid_config', `the signing key ${path} names the kid ${key.kid}, which is not its thumbprint`);
}

const thumbprint = (key: { kty: 'OKP'; crv: 'Ed25519'; x: string }): Promise<string> => calculateJwkThumbprint({ kty: key.kty, crv: key.crv, x: key.x });

async function makeKey(dir: string): Promise<void> {
  const pair = await generateKeyPair('Ed25519', { extractable: true });
  const { x, d } = await exportJWK(pair.privateKey);
  if (x === undefined || d === undefined) throw new HoldpointError('internal', 'the new signing key has no private part');
  const kid = await thumbprint({ kty: 'OKP', crv: 'Ed25519', x });
  const key: KeyFile = { kty: 'OKP', crv: 'Ed25519', x, d, kid, created_at: new Date().toISOString() };
  await writeWhole(join(dir, `${kid}.key.json`), `${JSON.stringify(key)}\n`, 0o600);
}

/** Keys in the public set that are not ours: an operator pinned them for approvers who sign themselves. */
async function foreignKeys(jwksFile: string): Promise<PublicKey[]> {
  let text: string;
  try {
    text = await readFile(jwksFile, 'utf8');
  } catch {
    return [];
  }
  try {
    const set = z.object({ keys: z.array(z.unknown()) }).parse(JSON.parse(text));
    return set.keys.map(publicKey).filter((key) => key.sub !== undefined || key.iss !== TOKEN_ISSUER);
  } catch (error) {
    throw new HoldpointError('invalid_config', `the key set ${jwksFile} cannot be read: ${messageOf(error)}`, {
      hint: 'mend or remove the file; serve writes its own keys into it again',
      cause: error,
    });
  }
}

/** Whole file or none: written beside, flushed, renamed. */
async function writeWhole(path: string, text: string, mode: number): Promise<void> {
  await mkdir(dirname(path), { recursive: true });
  const beside = `${path}.${process.pid}.${Math.random().toString(36).slice(2)}`;
  const file = await open(beside, 'wx', mode);
  try {
    await file.writeFile(text);
    await file.sync();
  } finally {
    await file.close();
  }
  await chmod(beside, mode);
  await rename(beside, path);
}

/** Shows each key in the database, and records in the audit when trust in it began. Safe to repeat. */
export async function recordKeys(pool: Pool, keys: SigningKeys): Promise<void> {
  await transaction(pool, async (client) => {
    const head = await lockHead(client, SYSTEM_RUN);
    for (const jwk of keys.trusted) {
      const sql = 'INSERT INTO signing_keys (kid, issuer, jwk) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING';
      const { rowCount } = await client.query(sql, [jwk.kid, jwk.iss, JSON.stringify(jwk)]);
      if (rowCount !== 1) continue;
      const facts = auditFacts({
        event_key: `key_changed/${jwk.kid}`,
        outcome: 'key_changed',
        approver: jwk.sub ?? null,
        reason: 'key_added',
        detail: `the public key ${jwk.kid} of ${jwk.iss} is trusted from now on`,
      });
      await appendAudit(client, head, facts, await ledgerNow(client));
    }
  });
}
