/** The 200 recorded runs, and what starts each of them again. */
import { readFileSync } from 'node:fs';
import type { RunInput } from 'holdpoint';
import { type Task, tasks } from './tasks.ts';
import * as tools from './tools.ts';

export interface RecordedCall {
  tool: string;
  args: unknown;
  /** What the airline answered, cut at 1,500 characters. */
  result: string;
}
export interface Recording {
  id: string;
  task: Task;
  /** 1: the benchmark scored the run as right. */
  reward: number;
  calls: RecordedCall[];
}

export const recordings: readonly Recording[] = readFileSync(new URL('./runs.jsonl', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n')
  .map((line) => JSON.parse(line) as Omit<Recording, 'task'> & { task: number })
  .map((run) => ({ ...run, task: taskNumbered(run.task) }));

const writes = new Set(Object.values(tools).flatMap(({ name, kind }) => (kind === 'write' ? [name] : [])));

export const isWrite = (tool: string): boolean => writes.has(tool);

/** The recorded calls become the script of a planner, so that the same agent acts again, word for word. */
export function runInputOf({ task: { goal }, calls }: Recording): RunInput {
  const script = calls.map(({ tool, args }) => ({ tool, args }));
  return { agent: 'airline-agent', requester: customerOf(goal), goal, planner: { type: 'script', calls: script } };
}

/** Every goal names the customer by their user id. */
function customerOf(goal: string): string {
  const [userId] = /\b[a-z]+_[a-z]+_\d{4}\b/.exec(goal) ?? [];
  if (userId === undefined) throw new Error(`no user id in the goal: ${goal.slice(0, 80)}`);
  return userId;
}

function taskNumbered(number: number): Task {
  const found = tasks.find(({ task }) => task === number);
  if (!found) throw new Error(`tasks.jsonl has no task ${number}`);
  return found;
}
