/** Compact JWS by Ed25519 keys that are pinned. Header members that could bring a key along are refused, not followed. */
import { type CryptoKey, CompactSign, compactVerify, importJWK } from 'jose';
import { z } from 'zod';

/** A public key that we trust. Each `kid` belongs to one issuer; a key with `sub` speaks for that person only. */
const PublicKey = z.object({
  kty: z.literal('OKP'),
  crv: z.literal('Ed25519'),
  x: z.string().regex(/^[A-Za-z0-9_-]{43}$/),
  kid: z.string().min(1).max(200),
  alg: z.literal('Ed25519'),
  use: z.literal('sig').optional(),
  iss: z.string().min(1).max(200),
  sub: z.string().min(1).max(200).optional(),
});
export type PublicKey = z.infer<typeof PublicKey>;

const KeySet = z.object({ keys: z.array(PublicKey).max(10_000) });

export interface PinnedKey {
  readonly jwk: PublicKey;
  readonly key: CryptoKey;
}
export type PinnedKeys = ReadonlyMap<string, PinnedKey>;

/** Reads a JWKS. Throws when it is not one, when a `kid` comes twice, or when a key cannot be used. */
export async function parseKeySet(text: string): Promise<PinnedKeys> {
  const { keys } = KeySet.parse(JSON.parse(text));
  return pinKeys(keys);
}

export async function pinKeys(keys: readonly PublicKey[]): Promise<PinnedKeys> {
  const pinned = new Map<string, PinnedKey>();
  for (const jwk of keys) {
    if (pinned.has(jwk.kid)) throw new Error(`the key set has the kid ${jwk.kid} twice`);
    const key = await importJWK({ kty: jwk.kty, crv: jwk.crv, x: jwk.x }, 'Ed25519');
    if (key instanceof Uint8Array) throw new Error(`the key ${jwk.kid} is not an Ed25519 key`);
    pinned.set(jwk.kid, { jwk, key });
  }
  return pinned;
}

export const publicKey = (value: unknown): PublicKey => PublicKey.parse(value);

export async function signJws(payload: unknown, typ: string, signer: { kid: string; privateKey: CryptoKey }): Promise<string> {
  return new CompactSign(new TextEncoder().encode(JSON.stringify(payload)))
    .setProtectedHeader({ alg: 'Ed25519', typ, kid: signer.kid })
    .sign(signer.privateKey);
}

/** Why a JWS does not count. */
export type JwsProblem = 'malformed' | 'too_large' | 'wrong_alg' | 'wrong_typ' | 'bad_header' | 'unknown_key' | 'bad_signature' | 'bad_claims';
export type JwsResult = { ok: true; payload: unknown; key: PublicKey } | { ok: false; reason: JwsProblem };

const refused = (reason: JwsProblem): JwsResult => ({ ok: false, reason });

/**
 * Signature, exact `alg` and `typ`, pinned `kid`. Says nothing about claims and reads no clock. Never throws.
 *
 * @param maxBytes longest JWS that is looked at
 */
export async function verifyJws(keys: PinnedKeys, jws: string, typ: string, maxBytes: number): Promise<JwsResult> {
  if (typeof jws !== 'string') return refused('malformed');
  if (jws.length > maxBytes) return refused('too_large');
  const parts = jws.split('.');
  const [header, payload, signature] = parts;
  if (parts.length !== 3 || !isCanonical(header) || !isCanonical(payload) || !isCanonical(signature)) return refused('malformed');
  const read = readHeader(header, typ);
  if (typeof read !== 'object') return refused(read);
  const pinned = keys.get(read.kid);
  if (!pinned) return refused('unknown_key');
  try {
    const verified = await compactVerify(jws, pinned.key, { algorithms: ['Ed25519'] });
    return { ok: true, payload: JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(verified.payload)), key: pinned.jwk };
  } catch (error) {
    return refused(error instanceof SyntaxError || error instanceof TypeError ? 'bad_claims' : 'bad_signature');
  }
}

/** One text per value: other spellings of the same bytes (padding, spare bits) would be a second token with the same signature. */
function isCanonical(part: string | undefined): part is string {
  return part !== undefined && part !== '' && Buffer.from(part, 'base64url').toString('base64url') === part;
}

function readHeader(encoded: string, typ: string): { kid: string } | JwsProblem {
  const header = parseObject(Buffer.from(encoded, 'base64url').toString('utf8'));
  if (!header) return 'malformed';
  if (header['alg'] !== 'Ed25519') return 'wrong_alg';
  if (header['typ'] !== typ) return 'wrong_typ';
  const { kid } = header;
  if (typeof kid !== 'string' || Object.keys(header).length !== 3) return 'bad_header';
  return { kid };
}

function parseObject(text: string): Record<string, unknown> | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? { ...value } : undefined;
  } catch {
    return undefined;
  }
}
