/** What the benchmark's authors say is right, and the rule by which a write is held against it. */
import { readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';

export interface Write {
  tool: string;
  args: unknown;
}
/** One of the benchmark's fifty tasks. Each was recorded four times. */
export interface Task {
  task: number;
  /** What the customer wants; the owner of a run gives it when the run is started. */
  goal: string;
  /** The writes that are right, and no others. None is listed twice. */
  writes: Write[];
}

export type Verdict = { outcome: 'approved' | 'denied'; reason: string };

export const tasks: readonly Task[] = readFileSync(new URL('./tasks.jsonl', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n')
  .map((line) => JSON.parse(line) as Task);

/**
 * A write is right if its task lists it: the same tool and, parsed, the same arguments to the last value and in the same
 * order of lists. Each line of the list is good for one write of a run.
 *
 * @param earlier writes of the same run that were found right before
 */
export function verdictOn(write: Write, task: Task | undefined, earlier: readonly Write[]): Verdict {
  if (task === undefined) return { outcome: 'denied', reason: 'the goal of this run is none of the tasks' };
  const isSame = (other: Write): boolean => other.tool === write.tool && isDeepStrictEqual(other.args, write.args);
  if (!task.writes.some(isSame)) return { outcome: 'denied', reason: `task ${task.task} does not list this write` };
  if (earlier.some(isSame)) return { outcome: 'denied', reason: `task ${task.task} lists this write once, and it was approved before` };
  return { outcome: 'approved', reason: `task ${task.task} lists this write` };
}
