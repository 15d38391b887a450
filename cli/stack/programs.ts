/** Programs that no npm package holds: found on PATH, else kept in a cache, into which they are downloaded or built by Go, once. */
import { spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { access, chmod, constants, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { basename, delimiter, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldpointError, messageOf } from '../../core/errors.ts';
import { tryLock, type Lock } from './lock.ts';

/** Tells a person what is going on. */
export type Report = (message: string) => void;

export type Environment = Readonly<Record<string, string | undefined>>;

/** Programs of one version that come together. */
export interface ProgramSet {
  /** What people call it, with its version. */
  title: string;
  /** Its folder in the cache, with its version. */
  folder: string;
  /** `name` is the file on PATH, in the archive and in the cache. */
  programs: readonly { name: string; goPackage: string }[];
  /** Of the Go module that holds all packages, with the `v`. */
  goVersion: string;
  /** A .tar.gz with the programs at its root. */
  archive: string;
  archiveMegabytes: number;
  /** Ways for a person to provide them. */
  hint: string;
}

/** `$HOLDPOINT_CACHE_DIR`, else `$XDG_CACHE_HOME/holdpoint`, else `~/.cache/holdpoint`. */
export function cacheDir(env: Environment = process.env): string {
  if (env.HOLDPOINT_CACHE_DIR) return env.HOLDPOINT_CACHE_DIR;
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'holdpoint');
}

/** `archive` names of this machine: Go's. */
export const ARCH = process.arch === 'x64' ? 'amd64' : process.arch;

/** Paths in the order of the set when all are there already, without fetching anything. */
export async function findPrograms(set: ProgramSet, env: Environment = process.env): Promise<string[] | undefined> {
  const onPath = await Promise.all(set.programs.map(({ name }) => firstOnPath(name, env)));
  if (onPath.every((path) => path !== undefined)) return onPath;
  return await cachedPrograms(set, env);
}

/** Paths in the order of the set, fetched into the cache when needed. Two processes may ask at once. */
export async function ensurePrograms(set: ProgramSet, report: Report, env: Environment = process.env): Promise<string[]> {
  const found = await findPrograms(set, env);
  if (found !== undefined) return found;
  if (env.HOLDPOINT_NO_DOWNLOAD === '1') throw missing(set, ['HOLDPOINT_NO_DOWNLOAD=1 forbids to download or build']);
  const lock = await waitForLock(set, report, env);
  if (Array.isArray(lock)) return lock;
  try {
    return (await findPrograms(set, env)) ?? (await fetchPrograms(set, report, env));
  } finally {
    await lock.release();
  }
}

async function firstOnPath(name: string, env: Environment): Promise<string | undefined> {
  for (const folder of (env.PATH ?? '').split(delimiter)) {
    if (folder !== '' && (await isExecutable(join(folder, name)))) return join(folder, name);
  }
  return undefined;
}

async function cachedPrograms(set: ProgramSet, env: Environment): Promise<string[] | undefined> {
  const paths = set.programs.map(({ name }) => join(cacheDir(env), set.folder, name));
  return (await Promise.all(paths.map(isExecutable))).every(Boolean) ? paths : undefined;
}

async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

/** The programs themselves when another process has fetched them meanwhile. */
async function waitForLock(set: ProgramSet, report: Report, env: Environment): Promise<Lock | string[]> {
  let told = false;
  for (;;) {
    const attempt = await tryLock(join(cacheDir(env), `${set.folder}.lock`));
    if (attempt.held) return attempt.lock;
    if (!told) report(`another process (pid ${attempt.pid}) is fetching ${set.title}; waiting for it`);
    told = true;
    await sleep(500);
    const cached = await cachedPrograms(set, env);
    if (cached !== undefined) return cached;
  }
}

async function fetchPrograms(set: ProgramSet, report: Report, env: Environment): Promise<string[]> {
  const cache = cacheDir(env);
  await mkdir(cache, { recursive: true, mode: 0o700 });
  // This process holds the lock: folders of earlier attempts are nobody's.
  for (const name of await readdir(cache)) if (name.startsWith(`.${set.folder}-`)) await rm(join(cache, name), { recursive: true, force: true });
  const work = await mkdtemp(join(cache, `.${set.folder}-`));
  const reasons: string[] = [];
  try {
    for (const way of [download, build]) {
      try {
        return await keep(set, await way(set, work, report, env), env);
      } catch (error) {
        reasons.push(messageOf(error));
        report(messageOf(error));
      }
    }
    throw missing(set, reasons);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** The rename is what makes them appear: never half a program, and never one without the others. */
async function keep(set: ProgramSet, fetched: string, env: Environment): Promise<string[]> {
  for (const { name } of set.programs) await chmod(join(fetched, name), 0o755);
  const kept = join(cacheDir(env), set.folder);
  await rm(kept, { recursive: true, force: true });
  await rename(fetched, kept);
  return set.programs.map(({ name }) => join(kept, name));
}

/** @returns folder with the programs */
async function download(set: ProgramSet, work: string, report: Report): Promise<string> {
  const host = new URL(set.archive).host;
  report(`downloading ${set.title} (about ${set.archiveMegabytes} MB) from ${host}`);
  const archive = join(work, 'archive.tar.gz');
  const unpacked = join(work, 'downloaded');
  try {
    const response = await fetchSoon(set.archive);
    if (!response.ok || response.body === null) throw new Error(`HTTP ${response.status}`);
    await pipeline(Readable.from(countBytes(response.body, Number(response.headers.get('content-length')), report)), createWriteStream(archive));
    await mkdir(unpacked);
    await run('tar', ['-xzf', archive, '-C', unpacked, ...set.programs.map(({ name }) => name)], { cwd: work, env: process.env }, () => {});
    return unpacked;
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? `: ${messageOf(error.cause)}` : '';
    throw new Error(`the download from ${host} did not work (${messageOf(error)}${cause})`, { cause: error });
  }
}

/** Short patience for the first byte, since there is another way; long for the rest. */
async function fetchSoon(url: string): Promise<Response> {
  const connect = new AbortController();
  const timer = setTimeout(() => connect.abort(new Error('no answer within 8 s')), 8_000);
  try {
    return await fetch(url, { signal: AbortSignal.any([connect.signal, AbortSignal.timeout(600_000)]) });
  } finally {
    clearTimeout(timer);
  }
}

async function* countBytes(body: AsyncIterable<Uint8Array>, total: number, report: Report): AsyncGenerator<Uint8Array> {
  let bytes = 0;
  let next = 10_000_000;
  for await (const chunk of body) {
    bytes += chunk.length;
    if (bytes >= next) {
      report(`downloading: ${Math.floor(bytes / 1e6)} MB${total > 0 ? ` of ${Math.floor(total / 1e6)} MB` : ''}`);
      next += 10_000_000;
    }
    yield chunk;
  }
}

/** @returns folder with the programs */
async function build(set: ProgramSet, work: string, report: Report, env: Environment): Promise<string> {
  report(`building ${set.title} with Go; once, 2 to 5 minutes`);
  const started = performance.now();
  const seconds = (): number => Math.round((performance.now() - started) / 1000);
  let last = '';
  const ticker = setInterval(() => report(`building with Go: ${seconds()} s${last === '' ? '' : `, ${last}`}`), 10_000);
  const bin = join(work, 'built');
  try {
    const args = ['install', '-v', '-ldflags=-s -w', ...set.programs.map(({ goPackage }) => `${goPackage}@${set.goVersion}`)];
    await run('go', args, { cwd: work, env: { ...env, GOBIN: bin, GOFLAGS: '', GO111MODULE: 'on', CGO_ENABLED: '0' } }, (line) => (last = line.slice(0, 80)));
    // Go names a program after the last part of its package.
    for (const { name, goPackage } of set.programs) await rename(join(bin, basename(goPackage)), join(bin, name));
    return bin;
  } catch (error) {
    throw new Error(`the build with Go did not work (${messageOf(error)})`, { cause: error });
  } finally {
    clearInterval(ticker);
  }
}

function run(program: string, args: string[], options: { cwd: string; env: Environment }, onLine: (line: string) => void): Promise<void> {
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, { ...options, stdio: ['ignore', 'ignore', 'pipe'] });
    let tail = '';
    const stop = (): void => void child.kill('SIGTERM');
    process.once('exit', stop);
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      tail = (tail + text).slice(-2_000);
      onLine(text.trim().split('\n').at(-1) ?? '');
    });
    child.once('error', (error: NodeJS.ErrnoException) => {
      process.off('exit', stop);
      reject(error.code === 'ENOENT' ? new Error(`${program} is not installed`) : error);
    });
    child.once('close', (code) => {
      process.off('exit', stop);
      if (code === 0) resolve();
      else reject(new Error(`${program} ended with ${code ?? 'a signal'}: ${tail.trim().split('\n').slice(-3).join(' | ')}`));
    });
  });
}

function missing(set: ProgramSet, reasons: string[]): HoldpointError {
  return new HoldpointError('missing_part', `${set.title} is not there: ${reasons.join('; ')}`, { hint: set.hint });
}
