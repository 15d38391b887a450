import { randomBytes } from 'node:crypto';

const ALPHABET = 'abcdefghijklmnopqrstuvwxyz234567';

/** `run_`, `apr_` or `dec_` and 26 characters of base32: 130 bits that nobody can guess. */
export function newId(prefix: 'run' | 'apr' | 'dec'): string {
  let id = `${prefix}_`;
  for (const byte of randomBytes(26)) id += ALPHABET.charAt(byte & 31);
  return id;
}
