/** What every command knows: its options and how to reach the API. */
import { readFile } from 'node:fs/promises';
import { relative as relativePath, resolve } from 'node:path';
import type { HoldpointClient } from '../client/index.ts';
import { HoldpointError } from '../core/errors.ts';
import { keyFile, type LocalRole } from './stack/identities.ts';
import { runningStack, statePaths, type StatePaths } from './stack/state.ts';

/** Options that every command takes. */
export interface CommonOptions {
  stateDir?: string;
  json?: boolean;
}

export interface Context {
  json: boolean;
  paths: StatePaths;
  /** How to type a command that reaches the same stack: `npx holdpoint approve ID --state-dir X`. */
  command: (rest: string) => string;
}

const DEFAULT_STATE_DIR = '.holdpoint';

export function contextOf(options: CommonOptions): Context {
  const given = stateDirOf(options.stateDir);
  if (given === '') throw new HoldpointError('usage', '--state-dir needs a folder');
  return { json: options.json === true, paths: statePaths(given), command: commandsOf(given) };
}

/** How to type commands that reach the stack of this state directory. */
export function commandsOf(stateDir: string | undefined): Context['command'] {
  const root = resolve(stateDirOf(stateDir));
  const flag = root === resolve(DEFAULT_STATE_DIR) ? '' : ` --state-dir ${quoted(shorter(root))}`;
  return (rest) => `npx holdpoint ${rest}${flag}`;
}

function stateDirOf(given: string | undefined): string {
  return given ?? process.env.HOLDPOINT_STATE_DIR ?? DEFAULT_STATE_DIR;
}

function shorter(path: string): string {
  const fromHere = relativePath(process.cwd(), path);
  return fromHere !== '' && !fromHere.startsWith('..') ? fromHere : path;
}

function quoted(text: string): string {
  return /^[\w./:@%+=-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}

/** A client with the key that fits the command: the environment's, else the local identity's of the running stack. */
export async function clientFor(context: Context, role: LocalRole): Promise<HoldpointClient> {
  const url = process.env.HOLDPOINT_URL || (await stackUrl(context));
  const apiKey = process.env.HOLDPOINT_API_KEY || (await localKey(context, role));
  const { HoldpointClient } = await import('../client/index.ts');
  return new HoldpointClient({ url, apiKey });
}

/** A client of the local stack, whatever the environment says of other servers. */
export async function localClient(context: Context, role: LocalRole, url: string): Promise<HoldpointClient> {
  const { HoldpointClient } = await import('../client/index.ts');
  return new HoldpointClient({ url, apiKey: await localKey(context, role) });
}

async function stackUrl(context: Context): Promise<string> {
  const stack = await runningStack(context.paths);
  if (stack?.api_url !== undefined && stack.status === 'ready') return stack.api_url;
  if (stack !== undefined)
    throw new HoldpointError('server_unreachable', `the stack in ${context.paths.root} (pid ${stack.pid}) is still starting`, {
      hint: 'try again in a few seconds',
    });
  throw new HoldpointError('server_unreachable', `no stack runs in ${context.paths.root}`, {
    hint: `start one: ${context.command('up')}; or name a server with HOLDPOINT_URL and HOLDPOINT_API_KEY`,
  });
}

async function localKey(context: Context, role: LocalRole): Promise<string> {
  const file = keyFile(context.paths, role);
  try {
    return (await readFile(file, 'utf8')).trim();
  } catch (error) {
    throw new HoldpointError('unauthenticated', `there is no API key: ${file} cannot be read`, {
      cause: error,
      hint: 'set HOLDPOINT_API_KEY, or use the state directory of the running stack with --state-dir',
    });
  }
}
