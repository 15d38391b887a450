import { chmod, mkdir, readdir, rename, stat, writeFile, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import fc from 'fast-check';
import { CompactSign, exportJWK, generateKeyPair, SignJWT, type CryptoKey } from 'jose';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { openSigningKeys, type SigningKeys } from '../../adapters/keys.ts';
import { createSigner, createVerifier } from '../../adapters/tokens.ts';
import type { ApprovalClaims } from '../../core/contracts.ts';
import { temporaryFolder } from '../support/index.ts';

const CLAIMS: ApprovalClaims = {
  iss: 'holdpoint',
  aud: 'holdpoint-gateway',
  sub: 'ann',
  jti: 'dec_1',
  iat: 1_700_000_000,
  exp: 1_700_000_300,
  run_id: 'run_1',
  pending_id: 'apr_1',
  call_id: '1.1',
  tool: 'email.send',
  tool_hash: 'sha256:t',
  args_hash: 'sha256:a',
  policy_hash: 'sha256:p',
  outcome: 'approved',
  decided_at: '2023-11-14T22:13:20.000Z',
};

let folder: { path: string; remove: () => Promise<void> };
let keys: SigningKeys;
let jwksFile: string;
let token: string;
beforeAll(async () => {
  folder = await temporaryFolder();
  jwksFile = join(folder.path, 'jwks.json');
  keys = await openSigningKeys({ dir: join(folder.path, 'keys'), jwksFile });
  token = await createSigner(keys).sign(CLAIMS);
});
afterAll(() => folder.remove());

const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
const part = (value: unknown): string => Buffer.from(JSON.stringify(value)).toString('base64url');

/** Signed by the trusted key, with a header of one's choice. */
async function signed(header: Record<string, unknown>, claims: unknown = CLAIMS, key: CryptoKey = keys.active.privateKey): Promise<string> {
  return new CompactSign(encode(claims)).setProtectedHeader({ alg: 'Ed25519', typ: 'approval+jwt', kid: keys.active.kid, ...header }).sign(key);
}

const reasonOf = async (jws: unknown): Promise<string> => {
  const verified = await createVerifier(jwksFile).verify(jws as string);
  return verified.ok ? 'ok' : verified.reason;
};

test('a token of the service verifies, long after it expired by the local clock', async () => {
  expect(await createVerifier(jwksFile).verify(token)).toEqual({ ok: true, claims: CLAIMS });
});

test('a token with any one character changed, added or removed never verifies', async () => {
  const verifier = createVerifier(jwksFile);
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=+/ \n\0é';
  await fc.assert(
    fc.asyncProperty(fc.nat(token.length - 1), fc.constantFrom(...alphabet, ''), fc.boolean(), async (at, character, insert) => {
      const mutated = token.slice(0, at) + character + token.slice(insert ? at : at + 1);
      fc.pre(mutated !== token);
      expect((await verifier.verify(mutated)).ok).toBe(false);
    }),
    { numRuns: 1_500 },
  );
});

test('the spare bits at the end of each part do not make a second token', async () => {
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
  for (const end of alphabet) {
    const mutated = token.slice(0, -1) + end;
    if (mutated !== token) expect(await reasonOf(mutated)).not.toBe('ok');
  }
});

test('nothing that is not a token makes the verifier throw', async () => {
  const verifier = createVerifier(jwksFile);
  await fc.assert(
    fc.asyncProperty(
      fc.oneof(
        fc.string(),
        fc.anything(),
        fc.tuple(fc.json(), fc.json(), fc.string()).map((parts) => parts.map((text) => Buffer.from(text).toString('base64url')).join('.')),
      ),
      async (junk) => {
        expect((await verifier.verify(junk as string)).ok).toBe(false);
      },
    ),
    { numRuns: 1_000 },
  );
});

test('each kind of bad token is refused with its own word', async () => {
  const other = await generateKeyPair('Ed25519', { extractable: true });
  const publicKey = await exportJWK(other.publicKey);
  const secret = new TextEncoder().encode((await readFile(jwksFile, 'utf8')).slice(0, 64));
  const [, payload, signature] = token.split('.');
  expect(await reasonOf(null)).toBe('malformed');
  expect(await reasonOf('')).toBe('malformed');
  expect(await reasonOf('x'.repeat(9_000))).toBe('too_large');
  expect(await reasonOf(`${part({ alg: 'none', typ: 'approval+jwt' })}.${payload}.`)).toBe('malformed');
  expect(await reasonOf(`${part({ alg: 'none', typ: 'approval+jwt', kid: keys.active.kid })}.${payload}.${signature}`)).toBe('wrong_alg');
  expect(await reasonOf(await new SignJWT({ ...CLAIMS }).setProtectedHeader({ alg: 'HS256', typ: 'approval+jwt', kid: keys.active.kid }).sign(secret))).toBe(
    'wrong_alg',
  );
  expect(await reasonOf(await signed({ alg: 'EdDSA' }))).toBe('wrong_alg');
  expect(await reasonOf(await signed({ typ: 'JWT' }))).toBe('wrong_typ');
  expect(await reasonOf(await signed({ typ: 'holdpoint-checkpoint+jwt' }))).toBe('wrong_typ');
  expect(await reasonOf(await signed({ kid: 'other' }))).toBe('unknown_key');
  expect(await reasonOf(await signed({}, CLAIMS, other.privateKey))).toBe('bad_signature');
  for (const member of [{ jwk: publicKey }, { jku: 'https://evil.example/jwks' }, { x5u: 'https://evil.example' }, { x5c: ['AA'] }]) {
    expect(await reasonOf(await signed(member, CLAIMS, other.privateKey))).toBe('bad_header');
    expect(await reasonOf(await signed(member))).toBe('bad_header');
  }
  expect(await reasonOf(`${part({ alg: 'Ed25519', typ: 'approval+jwt', kid: keys.active.kid, crit: ['b64'], b64: false })}.${payload}.${signature}`)).toBe(
    'bad_header',
  );
});

test('claims of another shape, issuer or audience are refused although the signature is right', async () => {
  const { exp: _exp, ...withoutExp } = CLAIMS;
  for (const claims of [
    withoutExp,
    { ...CLAIMS, extra: 1 },
    { ...CLAIMS, outcome: 'maybe' },
    { ...CLAIMS, exp: '9999999999' },
    { ...CLAIMS, aud: 'elsewhere' },
    [],
    'text',
    null,
  ]) {
    expect(await reasonOf(await signed({}, claims))).toBe('bad_claims');
  }
  expect(await reasonOf(await signed({}, { ...CLAIMS, iss: 'somebody' }))).toBe('wrong_issuer');
});

test("an approver's own key speaks for that approver alone", async () => {
  const own = await generateKeyPair('Ed25519', { extractable: true });
  const jwk = { ...(await exportJWK(own.publicKey)), kid: 'ann-key', alg: 'Ed25519', use: 'sig', iss: 'ann-key', sub: 'ann' };
  const file = join(folder.path, 'with-ann.json');
  await writeFile(file, JSON.stringify({ keys: [...keys.trusted, jwk] }));
  const verifier = createVerifier(file);
  expect(await verifier.verify(await signed({ kid: 'ann-key' }, { ...CLAIMS, iss: 'ann-key' }, own.privateKey))).toMatchObject({ ok: true });
  expect(await verifier.verify(await signed({ kid: 'ann-key' }, { ...CLAIMS, iss: 'ann-key', sub: 'bob' }, own.privateKey))).toEqual({
    ok: false,
    reason: 'wrong_subject',
  });
  expect(await verifier.verify(await signed({ kid: 'ann-key' }, CLAIMS, own.privateKey))).toEqual({ ok: false, reason: 'wrong_issuer' });
});

test('the key set is read again when it changed; a broken or missing file keeps the old keys', async () => {
  const file = join(folder.path, 'changing.json');
  const verifier = createVerifier(file);
  expect(await verifier.verify(token)).toEqual({ ok: false, reason: 'unknown_key' });
  const replace = async (text: string): Promise<void> => {
    await writeFile(`${file}.new`, text);
    await rename(`${file}.new`, file);
  };
  await replace(JSON.stringify({ keys: keys.trusted }));
  expect((await verifier.verify(token)).ok).toBe(true);
  await replace('{"keys": [{');
  expect((await verifier.verify(token)).ok).toBe(true);
  await replace(JSON.stringify({ keys: [...keys.trusted, ...keys.trusted] }));
  expect((await verifier.verify(token)).ok).toBe(true);
  await replace('{"keys": []}');
  expect(await verifier.verify(token)).toEqual({ ok: false, reason: 'unknown_key' });
});

test('keys are made once, for their owner alone, and the public set has no private part', async () => {
  const dir = join(folder.path, 'keys');
  const again = await openSigningKeys({ dir, jwksFile });
  expect(again.active.kid).toBe(keys.active.kid);
  const [name] = await readdir(dir);
  expect((await stat(dir)).mode & 0o777).toBe(0o700);
  expect((await stat(join(dir, name ?? ''))).mode & 0o777).toBe(0o600);
  expect((await stat(jwksFile)).mode & 0o777).toBe(0o644);
  expect(await readFile(jwksFile, 'utf8')).not.toMatch(/"d"/);
});

test('a rotation signs with the new key and trusts the old one', async () => {
  const dir = join(folder.path, 'rotated');
  const file = join(folder.path, 'rotated.json');
  const before = await openSigningKeys({ dir, jwksFile: file });
  const old = await createSigner(before).sign(CLAIMS);
  const after = await openSigningKeys({ dir, jwksFile: file, rotate: true });
  expect(after.active.kid).not.toBe(before.active.kid);
  const verifier = createVerifier(file);
  expect((await verifier.verify(old)).ok).toBe(true);
  expect((await verifier.verify(await createSigner(after).sign(CLAIMS))).ok).toBe(true);
});

test('keys that others could read are refused', async () => {
  const dir = join(folder.path, 'loose');
  const file = join(folder.path, 'loose.json');
  await openSigningKeys({ dir, jwksFile: file });
  const [name = ''] = await readdir(dir);
  await chmod(join(dir, name), 0o640);
  await expect(openSigningKeys({ dir, jwksFile: file })).rejects.toMatchObject({ code: 'invalid_config' });
  await chmod(join(dir, name), 0o600);
  await chmod(dir, 0o755);
  await expect(openSigningKeys({ dir, jwksFile: file })).rejects.toMatchObject({ code: 'invalid_config' });
});

test('keys that an operator pinned for approvers survive a start; a broken set is refused, not overwritten', async () => {
  const dir = join(folder.path, 'pinned');
  const file = join(folder.path, 'pinned.json');
  await mkdir(dir, { mode: 0o700 });
  const foreign = { kty: 'OKP', crv: 'Ed25519', x: 'A'.repeat(43), kid: 'ann-key', alg: 'Ed25519', use: 'sig', iss: 'ann-key', sub: 'ann' };
  await writeFile(file, JSON.stringify({ keys: [foreign] }));
  expect((await openSigningKeys({ dir, jwksFile: file })).trusted).toContainEqual(foreign);
  await writeFile(file, '{"keys": [');
  await expect(openSigningKeys({ dir, jwksFile: file })).rejects.toMatchObject({ code: 'invalid_config' });
});
