/**
 * A lock between processes that survives `kill -9` of its holder. The lock is a folder of numbered files; the highest
 * number holds. A new holder makes the next number, atomically and complete, so of two that find the same dead holder one
 * wins. Numbers only grow while the folder lives: taking over never deletes a lock that somebody just made.
 */
import { link, mkdir, readdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { randomBytes } from 'node:crypto';
import { identify, isRunning, type ProcessIdentity } from './processes.ts';

interface LockFile extends ProcessIdentity {
  released?: boolean;
  info: Record<string, unknown>;
}

export interface Lock {
  /** Replaces what others can read about the holder. */
  update(info: Record<string, unknown>): Promise<void>;
  release(): Promise<void>;
}

export type LockAttempt = { held: true; lock: Lock } | { held: false; pid: number; info: Record<string, unknown> };

/** Takes the lock, or says who has it. Never waits. */
export async function tryLock(folder: string, info: Record<string, unknown> = {}): Promise<LockAttempt> {
  await mkdir(folder, { recursive: true, mode: 0o700 });
  const self = identify(process.pid) ?? { pid: process.pid, started: '' };
  for (;;) {
    const last = (await generations(folder)).at(-1) ?? 0;
    const holder = last === 0 ? undefined : await readLock(folder, last);
    if (holder !== undefined && holder.released !== true && isRunning(holder)) return { held: false, pid: holder.pid, info: holder.info };
    const mine = last + 1;
    if (!(await create(folder, mine, { ...self, info }))) continue;
    const all = await generations(folder);
    if (all.some((generation) => generation > mine)) {
      await rm(join(folder, String(mine)), { force: true });
      continue;
    }
    for (const old of all) if (old < mine) await rm(join(folder, String(old)), { force: true });
    return { held: true, lock: heldLock(folder, mine, self) };
  }
}

/** Who holds the lock now; undefined when nobody does. */
export async function lockHolder(folder: string): Promise<{ pid: number; info: Record<string, unknown> } | undefined> {
  const last = (await generations(folder)).at(-1);
  const holder = last === undefined ? undefined : await readLock(folder, last);
  return holder !== undefined && holder.released !== true && isRunning(holder) ? { pid: holder.pid, info: holder.info } : undefined;
}

function heldLock(folder: string, generation: number, self: ProcessIdentity): Lock {
  const replace = async (file: LockFile): Promise<void> => {
    const temporary = await writeTemporary(folder, file);
    await rename(temporary, join(folder, String(generation)));
  };
  return {
    update: (info) => replace({ ...self, info }),
    release: () => replace({ ...self, released: true, info: {} }).catch(() => {}),
  };
}

async function create(folder: string, generation: number, file: LockFile): Promise<boolean> {
  const temporary = await writeTemporary(folder, file);
  try {
    await link(temporary, join(folder, String(generation)));
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'EEXIST') return false;
    throw error;
  } finally {
    await rm(temporary, { force: true });
  }
}

async function writeTemporary(folder: string, file: LockFile): Promise<string> {
  const temporary = join(folder, `.${process.pid}-${randomBytes(6).toString('hex')}`);
  await writeFile(temporary, JSON.stringify(file), { mode: 0o600, flag: 'wx' });
  return temporary;
}

async function generations(folder: string): Promise<number[]> {
  const names = await readdir(folder).catch(() => []);
  return names
    .filter((name) => /^\d{1,15}$/.test(name))
    .map(Number)
    .sort((a, b) => a - b);
}

async function readLock(folder: string, generation: number): Promise<LockFile | undefined> {
  try {
    return JSON.parse(await readFile(join(folder, String(generation)), 'utf8')) as LockFile;
  } catch {
    return undefined;
  }
}
