/** The worker and the API as child processes of `up`. */
import { spawn, type ChildProcess } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { ERROR_TABLE, HoldpointError, type ErrorCode } from '../../core/errors.ts';

/** What a child says over the channel when it can't go on. */
export interface ChildFailure {
  type: 'holdpoint.failure';
  code: ErrorCode;
  message: string;
  hint?: string;
  details?: Record<string, unknown>;
}

const READY_WITHIN_MS = 60_000;
const MAIN = fileURLToPath(new URL(import.meta.url.endsWith('.ts') ? '../main.ts' : '../main.js', import.meta.url));

/**
 * Starts `holdpoint worker` or `holdpoint serve` and waits for its ready line.
 *
 * @returns the fields of the ready line
 */
export async function startChild(
  command: 'worker' | 'serve',
  options: { env: NodeJS.ProcessEnv; logFile: string },
  onSpawn: (child: ChildProcess) => void,
): Promise<Record<string, unknown>> {
  const log = openSync(options.logFile, 'a', 0o600);
  // The channel is how the child learns that `up` is gone, also by kill -9.
  const child = spawn(process.execPath, ['--enable-source-maps', MAIN, command], { env: options.env, stdio: ['ignore', 'pipe', log, 'ipc'], detached: true });
  closeSync(log);
  onSpawn(child);
  try {
    return await readyLine(child, command, options.logFile);
  } catch (error) {
    child.kill('SIGKILL');
    throw error;
  }
}

function readyLine(child: ChildProcess, command: string, logFile: string): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    let failure: ChildFailure | undefined;
    const timer = setTimeout(
      () => reject(new HoldpointError('internal', `${command} was not ready within ${READY_WITHIN_MS / 1000} s`, { hint: `its log is ${logFile}` })),
      READY_WITHIN_MS,
    );
    child.on('message', (message) => {
      if (isFailure(message)) failure = message;
    });
    child.once('error', (error) => {
      clearTimeout(timer);
      reject(error);
    });
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      if (failure === undefined)
        void tail(logFile).then((lines) =>
          reject(
            new HoldpointError('internal', `${command} ended with ${signal ?? code ?? 'nothing'} before it was ready\n${lines}`, {
              hint: `its log is ${logFile}`,
            }),
          ),
        );
      else
        reject(
          new HoldpointError(failure.code, failure.message, {
            ...(failure.hint === undefined ? {} : { hint: failure.hint }),
            ...(failure.details === undefined ? {} : { details: failure.details }),
          }),
        );
    });
    if (child.stdout === null) return;
    createInterface({ input: child.stdout }).on('line', (line) => {
      const said = parse(line);
      if (said?.ready !== command) return;
      clearTimeout(timer);
      resolve(said);
    });
  });
}

function parse(line: string): Record<string, unknown> | undefined {
  try {
    return JSON.parse(line) as Record<string, unknown>;
  } catch {
    return undefined;
  }
}

function isFailure(message: unknown): message is ChildFailure {
  return (
    typeof message === 'object' &&
    message !== null &&
    'type' in message &&
    message.type === 'holdpoint.failure' &&
    'code' in message &&
    String(message.code) in ERROR_TABLE
  );
}

/** Last lines of a log, those of JSON with their message alone. */
async function tail(file: string): Promise<string> {
  const lines = (await readFile(file, 'utf8').catch(() => '')).trim().split('\n').slice(-5);
  return lines
    .map((line) => {
      const entry = parse(line);
      return entry === undefined || entry === null ? line : String(entry.msg ?? line);
    })
    .join('\n');
}
