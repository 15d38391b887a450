/** Secrets of the embedded stack, made once: the two local identities and the passwords of the database roles. */
import { createHash, randomBytes } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { Identity } from '../../core/contracts.ts';
import { writePrivate, type StatePaths } from './state.ts';

export const LOCAL_IDENTITIES = { operator: 'local-operator', approver: 'local-approver' } as const;
export type LocalRole = keyof typeof LOCAL_IDENTITIES;

/** File with the API key of a local identity. */
export function keyFile(paths: StatePaths, role: LocalRole): string {
  return join(paths.keys, `${role}.key`);
}

/** Makes both keys and `identities.json`. Keys that exist stay; identities added by hand stay too. */
export async function ensureIdentities(paths: StatePaths): Promise<void> {
  const own: Identity[] = [];
  for (const role of ['operator', 'approver'] as const) {
    const key = await ensureSecret(keyFile(paths, role), () => `hp_${randomBytes(32).toString('base64url')}`);
    own.push({ principal: LOCAL_IDENTITIES[role], roles: [role], key_sha256: createHash('sha256').update(key).digest('hex') });
  }
  const names = new Set(own.map((identity) => identity.principal));
  const others = (await knownIdentities(paths)).filter((identity) => !names.has(identity.principal));
  await writePrivate(paths.identities, `${JSON.stringify({ identities: [...own, ...others] }, null, 2)}\n`);
}

async function knownIdentities(paths: StatePaths): Promise<Identity[]> {
  const text = await readFile(paths.identities, 'utf8').catch(() => undefined);
  return text === undefined ? [] : (JSON.parse(text) as { identities: Identity[] }).identities;
}

export interface RolePasswords {
  worker: string;
  serve: string;
  examples: string;
}

/** Passwords of the database roles: kept, so that a restart does not lock out who is connected. */
export async function ensureRolePasswords(paths: StatePaths): Promise<RolePasswords> {
  const random = (): string => randomBytes(24).toString('base64url');
  const text = await ensureSecret(paths.rolePasswords, () => JSON.stringify({ worker: random(), serve: random(), examples: random() }));
  return JSON.parse(text) as RolePasswords;
}

async function ensureSecret(file: string, make: () => string): Promise<string> {
  const known = (await readFile(file, 'utf8').catch(() => '')).trim();
  if (known !== '') return known;
  const made = make();
  await writePrivate(file, `${made}\n`);
  return made;
}
