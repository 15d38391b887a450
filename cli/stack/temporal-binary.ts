/** Where the `temporal` program comes from: PATH, the cache, a download, a build by Go, in this order. */
import { spawn } from 'node:child_process';
import { createWriteStream } from 'node:fs';
import { access, chmod, constants, mkdir, mkdtemp, readdir, rename, rm } from 'node:fs/promises';
import { homedir } from 'node:os';
import { delimiter, join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldpointError, messageOf } from '../../core/errors.ts';
import { tryLock } from './lock.ts';

/** Version that is downloaded or built. Later ones can't be installed by `go install`. */
export const TEMPORAL_CLI_VERSION = '1.5.1';

/** Tells a person what is going on. */
export type Report = (message: string) => void;

type Environment = Readonly<Record<string, string | undefined>>;

/** `$HOLDPOINT_CACHE_DIR`, else `$XDG_CACHE_HOME/holdpoint`, else `~/.cache/holdpoint`. */
export function cacheDir(env: Environment = process.env): string {
  if (env.HOLDPOINT_CACHE_DIR) return env.HOLDPOINT_CACHE_DIR;
  return join(env.XDG_CACHE_HOME || join(homedir(), '.cache'), 'holdpoint');
}

/** Path of the program when it is there already, without fetching anything. */
export async function findTemporal(env: Environment = process.env): Promise<string | undefined> {
  for (const folder of (env.PATH ?? '').split(delimiter)) {
    if (folder !== '' && (await isExecutable(join(folder, 'temporal')))) return join(folder, 'temporal');
  }
  const cached = cachedPath(env);
  return (await isExecutable(cached)) ? cached : undefined;
}

/** Path of the program, fetched into the cache when needed. Two processes may ask at once. */
export async function ensureTemporal(report: Report, env: Environment = process.env): Promise<string> {
  const found = await findTemporal(env);
  if (found !== undefined) return found;
  if (env.HOLDPOINT_NO_DOWNLOAD === '1') throw missing(['HOLDPOINT_NO_DOWNLOAD=1 forbids to download or build it']);
  const lock = await waitForLock(join(cacheDir(env), `temporal-${TEMPORAL_CLI_VERSION}.lock`), report, env);
  if (lock === undefined) return cachedPath(env);
  try {
    return (await findTemporal(env)) ?? (await fetchTemporal(report, env));
  } finally {
    await lock.release();
  }
}

/** Undefined when another process has finished the work meanwhile. */
async function waitForLock(folder: string, report: Report, env: Environment) {
  let told = false;
  for (;;) {
    const attempt = await tryLock(folder);
    if (attempt.held) return attempt.lock;
    if (!told) report(`another process (pid ${attempt.pid}) is fetching the Temporal command line; waiting for it`);
    told = true;
    await sleep(500);
    if (await isExecutable(cachedPath(env))) return undefined;
  }
}

async function fetchTemporal(report: Report, env: Environment): Promise<string> {
  const cache = cacheDir(env);
  await mkdir(cache, { recursive: true, mode: 0o700 });
  // This process holds the lock: folders of earlier attempts are nobody's.
  for (const name of await readdir(cache)) if (name.startsWith('.temporal-')) await rm(join(cache, name), { recursive: true, force: true });
  const work = await mkdtemp(join(cache, '.temporal-'));
  const reasons: string[] = [];
  try {
    for (const way of [download, build]) {
      try {
        return await keep(await way(work, report, env), env);
      } catch (error) {
        reasons.push(messageOf(error));
        report(messageOf(error));
      }
    }
    throw missing(reasons);
  } finally {
    await rm(work, { recursive: true, force: true });
  }
}

/** The rename is what makes it appear: never half a program. */
async function keep(program: string, env: Environment): Promise<string> {
  await chmod(program, 0o755);
  await mkdir(join(cacheDir(env), `temporal-${TEMPORAL_CLI_VERSION}`), { recursive: true });
  await rename(program, cachedPath(env));
  return cachedPath(env);
}

async function download(work: string, report: Report): Promise<string> {
  const arch = process.arch === 'x64' ? 'amd64' : process.arch;
  const url = `https://temporal.download/cli/archive/v${TEMPORAL_CLI_VERSION}?platform=${process.platform}&arch=${arch}`;
  report(`downloading the Temporal command line ${TEMPORAL_CLI_VERSION} (about 60 MB) from temporal.download`);
  const archive = join(work, 'temporal.tar.gz');
  try {
    const response = await fetchSoon(url);
    if (!response.ok || response.body === null) throw new Error(`HTTP ${response.status}`);
    await pipeline(Readable.from(countBytes(response.body, Number(response.headers.get('content-length')), report)), createWriteStream(archive));
    await run('tar', ['-xzf', archive, '-C', work, 'temporal'], { cwd: work, env: process.env }, () => {});
    return join(work, 'temporal');
  } catch (error) {
    const cause = error instanceof Error && error.cause !== undefined ? `: ${messageOf(error.cause)}` : '';
    throw new Error(`the download from temporal.download did not work (${messageOf(error)}${cause})`, { cause: error });
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

async function build(work: string, report: Report, env: Environment): Promise<string> {
  report(`building the Temporal command line ${TEMPORAL_CLI_VERSION} with Go; once, 2 to 5 minutes`);
  const started = performance.now();
  const seconds = (): number => Math.round((performance.now() - started) / 1000);
  let last = '';
  const ticker = setInterval(() => report(`building with Go: ${seconds()} s${last === '' ? '' : `, ${last}`}`), 10_000);
  try {
    const args = ['install', '-v', '-ldflags=-s -w', `github.com/temporalio/cli/cmd/temporal@v${TEMPORAL_CLI_VERSION}`];
    await run('go', args, { cwd: work, env: { ...env, GOBIN: work, GOFLAGS: '', GO111MODULE: 'on', CGO_ENABLED: '0' } }, (line) => (last = line.slice(0, 80)));
    return join(work, 'temporal');
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

function cachedPath(env: Environment): string {
  return join(cacheDir(env), `temporal-${TEMPORAL_CLI_VERSION}`, 'temporal');
}

async function isExecutable(path: string): Promise<boolean> {
  return await access(path, constants.X_OK).then(
    () => true,
    () => false,
  );
}

function missing(reasons: string[]): HoldpointError {
  return new HoldpointError('missing_part', `the Temporal command line is not there: ${reasons.join('; ')}`, {
    hint: [
      'any one of these mends it:',
      '  put `temporal` on PATH (https://docs.temporal.io/cli#install)',
      `  go install github.com/temporalio/cli/cmd/temporal@v${TEMPORAL_CLI_VERSION} (needs Go, https://go.dev/dl), with its bin folder on PATH`,
      '  TEMPORAL_ADDRESS=host:7233 holdpoint up, to use a Temporal server that runs already',
    ].join('\n'),
  });
}
