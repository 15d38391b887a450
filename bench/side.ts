/** One of the two things that are measured, seen from the outside. */
import { randomUUID } from 'node:crypto';
import type { BenchWorker } from './process.ts';
import type { Stand } from './stand.ts';

export interface Side {
  readonly name: 'minimal' | 'holdpoint';
  readonly worker: BenchWorker;
  /** Starts a run of so many gated calls; answers its name. */
  start(calls: number): Promise<string>;
  /** Waits until the runs have asked for all that they ask for before the first message; answers when that was. */
  asked(runs: readonly string[], calls: number): Promise<number>;
  /** Does what has to be done before a message can be sent, and is no part of what is compared: ledger commit and signing. */
  prepare(run: string, call: number): Promise<void>;
  /** Waits until a message for this call is not too early. */
  listening(run: string, call: number): Promise<void>;
  /** Sends the Temporal message; resolves when the server has taken it. */
  send(run: string, call: number): Promise<void>;
  /** Id of the run's workflow. */
  workflowId(run: string): string;
  close(): Promise<void>;
}

export const TOOL = 'email.send';
export const newQueue = (): string => `bench-${randomUUID()}`;

/** @param cache runs that the worker keeps in memory */
export type OpenSide = (stand: Stand, cache: number) => Promise<Side>;

/** 0, 1, 2 ... */
export const upTo = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

/** Does the work for each item, so many at a time, in order. */
export async function each<T>(items: readonly T[], concurrency: number, work: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  const lane = async (): Promise<void> => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await work(item);
  };
  await Promise.all(Array.from({ length: concurrency }, lane));
}
