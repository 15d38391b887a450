/** The state directory: where things are in it, and what a running stack says of itself. */
import { chmod, mkdir, readFile, rename, stat, writeFile } from 'node:fs/promises';
import { isAbsolute, join, resolve } from 'node:path';
import { HoldpointError } from '../../core/errors.ts';
import { lockHolder } from './lock.ts';
import type { ProcessIdentity } from './processes.ts';

export interface StatePaths {
  root: string;
  stackFile: string;
  lock: string;
  keys: string;
  identities: string;
  /** Private signing keys: `serve` alone is told of it. */
  serveKeys: string;
  jwks: string;
  checkpoints: string;
  temporalDb: string;
  postgres: string;
  rolePasswords: string;
  logs: string;
  effects: string;
}

export function statePaths(stateDir: string): StatePaths {
  const root = isAbsolute(stateDir) ? stateDir : resolve(stateDir);
  const at = (name: string): string => join(root, name);
  return {
    root,
    stackFile: at('stack.json'),
    lock: at('up.lock'),
    keys: at('keys'),
    identities: at('identities.json'),
    serveKeys: at('serve'),
    jwks: at('jwks.json'),
    checkpoints: at('checkpoints'),
    temporalDb: at('temporal.db'),
    postgres: at('pg'),
    rolePasswords: join(at('pg'), 'roles.json'),
    logs: at('logs'),
    effects: at('effects.jsonl'),
  };
}

/** Makes the directory and its folders, readable by the local user alone. */
export async function prepareState(paths: StatePaths): Promise<void> {
  const before = await stat(paths.root).catch(() => undefined);
  if (before !== undefined && !before.isDirectory())
    throw new HoldpointError('usage', `the state directory ${paths.root} is a file`, { hint: 'choose another with --state-dir' });
  for (const folder of [paths.root, paths.keys, paths.serveKeys, paths.checkpoints, paths.postgres, paths.logs])
    await mkdir(folder, { recursive: true, mode: 0o700 });
  for (const folder of [paths.keys, paths.serveKeys, paths.postgres]) await chmod(folder, 0o700);
}

/** A process that the stack started, so that the next `up` finds what a killed one left behind. */
export interface PartRecord extends ProcessIdentity {
  name: string;
}

/** `stack.json`. The addresses are there once everything is ready. */
export interface StackFile {
  pid: number;
  status: 'starting' | 'ready';
  parts: PartRecord[];
  temporal_address?: string;
  temporal_web?: string | null;
  api_url?: string;
  database_url?: string;
  started_at: string;
}

export async function readStackFile(paths: StatePaths): Promise<StackFile | undefined> {
  try {
    return JSON.parse(await readFile(paths.stackFile, 'utf8')) as StackFile;
  } catch {
    return undefined;
  }
}

/** Replaces the file in one piece: a reader sees the old one or the new one. */
export async function writePrivate(file: string, text: string): Promise<void> {
  const temporary = `${file}.${process.pid}.tmp`;
  await writeFile(temporary, text, { mode: 0o600 });
  await rename(temporary, file);
}

/** What runs in this state directory now; undefined when nothing does. */
export async function runningStack(paths: StatePaths): Promise<StackFile | undefined> {
  const holder = await lockHolder(paths.lock);
  if (holder === undefined) return undefined;
  const file = await readStackFile(paths);
  return file?.pid === holder.pid ? file : { pid: holder.pid, status: 'starting', parts: [], started_at: new Date().toISOString() };
}
