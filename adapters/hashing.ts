import { createHash } from 'node:crypto';
import canonicalize from 'canonicalize';
import type { Hashing } from '../activities/ports.ts';
import { HoldpointError } from '../core/errors.ts';

/** RFC 8785 form of a JSON value. Refuses what has none, and integers that JSON numbers cannot hold exactly. */
export function canonical(value: unknown): string {
  refuseInexact(value);
  const text = canonicalize(value);
  if (text === undefined) throw new HoldpointError('invalid_request', 'the value has no JSON form');
  return text;
}

function refuseInexact(value: unknown): void {
  if (typeof value === 'number' && Number.isInteger(value) && !Number.isSafeInteger(value)) {
    throw new HoldpointError('invalid_request', `the number ${value} is beyond 2^53 and would not survive JSON; send it as a string`);
  }
  if (typeof value === 'object' && value !== null) for (const member of Object.values(value)) refuseInexact(member);
}

/** `sha256:` and the hex digest of the UTF-8 bytes. */
export function sha256(text: string): string {
  return `sha256:${createHash('sha256').update(text, 'utf8').digest('hex')}`;
}

export function hashJson(value: unknown): string {
  return sha256(canonical(value));
}

/** What an approval is bound to: `sha256:` of the canonical form of `{tool, args}`. */
export function argsHash(tool: string, args: unknown): string {
  return hashJson({ tool, args });
}

export const hashing: Hashing = { canonical, sha256, hashJson, argsHash };
