import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { lockHolder, tryLock } from '../../cli/stack/lock.ts';
import { identify } from '../../cli/stack/processes.ts';
import { temporaryFolder } from '../support/index.ts';

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let lock: string;
beforeEach(async () => {
  folder = await temporaryFolder();
  lock = join(folder.path, 'up.lock');
});
afterEach(() => folder.remove());

async function leftBehind(file: object): Promise<void> {
  await mkdir(lock, { recursive: true });
  await writeFile(join(lock, '7'), JSON.stringify(file));
}

test('a held lock tells the second who has it and what the holder said', async () => {
  const first = await tryLock(lock);
  if (!first.held) throw new Error('not held');
  await first.lock.update({ api_url: 'http://127.0.0.1:1' });
  expect(await tryLock(lock)).toEqual({ held: false, pid: process.pid, info: { api_url: 'http://127.0.0.1:1' } });
  await first.lock.release();
  expect(await lockHolder(lock)).toBeUndefined();
  expect((await tryLock(lock)).held).toBe(true);
});

test('the lock of a killed process is taken over', async () => {
  const child = spawn('sleep', ['60']);
  const dead = identify(child.pid!)!;
  await leftBehind({ ...dead, info: {} });
  expect(await tryLock(lock)).toMatchObject({ held: false, pid: dead.pid });
  child.kill('SIGKILL');
  await once(child, 'exit');
  expect((await tryLock(lock)).held).toBe(true);
});

test('a process that got the pid of the dead holder does not keep the lock', async () => {
  await leftBehind({ pid: process.pid, started: 'another process, long ago', info: {} });
  expect((await tryLock(lock)).held).toBe(true);
});

test('of twenty that find the same dead holder exactly one takes over', async () => {
  await leftBehind({ pid: process.pid, started: 'dead', info: {} });
  const attempts = await Promise.all(Array.from({ length: 20 }, () => tryLock(lock)));
  expect(attempts.filter((attempt) => attempt.held)).toHaveLength(1);
  expect(await readdir(lock)).toHaveLength(1);
});

test('a lock file cut short by a crash is no holder', async () => {
  await mkdir(lock, { recursive: true });
  await writeFile(join(lock, '3'), '{"pid": 1');
  expect((await tryLock(lock)).held).toBe(true);
});
