/** What `npm run airline -- ...` understands. */
import { parseArgs } from 'node:util';
import { type Recording, recordings } from './recordings.ts';

export interface Options {
  chosen: readonly Recording[];
  /** `repeat_refusal_limit` of the policy. */
  limit: number;
  concurrency: number;
  stateDir: string | undefined;
  json: boolean;
}

export const USAGE = `usage: npm run airline -- [options] [ID...]
  ID...             only these runs, such as airline-5-1 (default: all 200)
  --limit N         repeat_refusal_limit of the policy (0 = none; default 0)
  --concurrency N   runs at a time (default 8)
  --state-dir DIR   keeps the state there (default: a temporary one)
  --json            prints one JSON document instead of the table
`;

const OPTIONS = {
  limit: { type: 'string', default: '0' },
  concurrency: { type: 'string', default: '8' },
  'state-dir': { type: 'string' },
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', default: false },
} as const;

/** @throws Error that says which argument cannot be used */
export function optionsOf(args: string[]): Options | 'help' {
  const { values, positionals } = parseArgs({ args, options: OPTIONS, allowPositionals: true });
  if (values.help) return 'help';
  const limit = wholeNumber('--limit', values.limit, 0, 1_000);
  const concurrency = wholeNumber('--concurrency', values.concurrency, 1, 200);
  return { chosen: chosenFrom(positionals), limit, concurrency, stateDir: values['state-dir'], json: values.json };
}

function chosenFrom(ids: readonly string[]): readonly Recording[] {
  const unknown = ids.find((id) => !recordings.some((recording) => recording.id === id));
  if (unknown !== undefined) throw new Error(`there is no run ${unknown}`);
  return ids.length === 0 ? recordings : recordings.filter(({ id }) => ids.includes(id));
}

function wholeNumber(name: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < least || value > most) throw new Error(`${name} "${text}" is not a whole number from ${least} to ${most}`);
  return value;
}
