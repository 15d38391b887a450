/** Approval tokens: made by the decision service, checked by everybody with public keys alone. */
import { statSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import type { TokenVerifier } from '../activities/ports.ts';
import { ApprovalClaims, TOKEN_AUDIENCE, TOKEN_ISSUER, TOKEN_TYP } from '../core/contracts.ts';
import { LIMITS } from '../core/words.ts';
import { parseKeySet, type PinnedKeys, signJws, verifyJws } from './jws.ts';
import type { SigningKeys } from './keys.ts';

export interface TokenSigner {
  /** Compact JWS of an approver's decision, signed by the active key. */
  sign(claims: Omit<ApprovalClaims, 'iss' | 'aud'>): Promise<string>;
}

export function createSigner(keys: SigningKeys): TokenSigner {
  return {
    async sign(claims) {
      return signJws(ApprovalClaims.parse({ iss: TOKEN_ISSUER, aud: TOKEN_AUDIENCE, ...claims }), TOKEN_TYP, keys.active);
    },
  };
}

export type TokenResult = Awaited<ReturnType<TokenVerifier['verify']>>;

/** Looks at one token with a given set of keys. Expiry is not checked: one clock decides, and it is the ledger's. */
export async function verifyToken(keys: PinnedKeys, token: string): Promise<TokenResult> {
  const verified = await verifyJws(keys, token, TOKEN_TYP, LIMITS.token);
  if (!verified.ok) return verified;
  const claims = ApprovalClaims.safeParse(verified.payload);
  if (!claims.success || claims.data.aud !== TOKEN_AUDIENCE) return { ok: false, reason: 'bad_claims' };
  if (claims.data.iss !== verified.key.iss) return { ok: false, reason: 'wrong_issuer' };
  if (verified.key.sub !== undefined && verified.key.sub !== claims.data.sub) return { ok: false, reason: 'wrong_subject' };
  return { ok: true, claims: claims.data };
}

/**
 * Verifies against the public keys pinned in a file. The file is read again when it changed; while it is missing or
 * broken the keys read before stay in force.
 */
export function createVerifier(jwksFile: string): TokenVerifier {
  const keys = watchKeySet(jwksFile);
  return {
    async verify(token) {
      try {
        return await verifyToken(await keys(), token);
      } catch {
        return { ok: false, reason: 'malformed' };
      }
    },
  };
}

function watchKeySet(file: string): () => Promise<PinnedKeys> {
  let keys: PinnedKeys = new Map();
  let seen = '';
  return async () => {
    try {
      // Synchronous: microseconds here, where a thread of the pool would have to be woken for each token.
      const { mtimeMs, size, ino } = statSync(file);
      const version = `${mtimeMs}/${size}/${ino}`;
      if (version !== seen) {
        keys = await parseKeySet(await readFile(file, 'utf8'));
        seen = version;
      }
    } catch {
      // Old keys stay: a half-written file must neither add trust nor stop runs whose keys are known.
    }
    return keys;
  };
}
