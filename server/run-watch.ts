/** Wakes those who wait for a run: one listening connection for all of them, and a slow poll in case it is broken. */
import pg from 'pg';
import { messageOf } from '../core/errors.ts';
import type { RunView } from '../client/types.ts';
import type { Log } from './ports.ts';

const CHANNEL = 'holdpoint_run';
const POLL_MS = 2_000;
const RECONNECT_MS = 1_000;

/** `settled`: the run waits for people or has stopped. */
export type Until = 'settled' | 'stopped';

export function isReached(view: RunView, until: Until): boolean {
  return view.status === 'stopped' || (until === 'settled' && view.status === 'waiting');
}

export class RunWatch {
  readonly #url: string;
  readonly #log: Log;
  readonly #waiters = new Map<string, Set<() => void>>();
  #client: pg.Client | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(databaseUrl: string, log: Log) {
    this.#url = databaseUrl;
    this.#log = log;
  }

  async start(): Promise<void> {
    try {
      const client = new pg.Client({ connectionString: this.#url, application_name: 'holdpoint-listen', keepAlive: true });
      this.#client = client;
      client.on('error', (error) => this.#log.warn({ error: error.message }, 'the listening connection broke'));
      client.on('end', () => this.#reconnect());
      client.on('notification', ({ payload }) => this.#wake(payload ?? ''));
      await client.connect();
      await client.query(`LISTEN ${CHANNEL}`);
    } catch (error) {
      this.#log.warn({ error: messageOf(error) }, 'cannot listen to the database');
      this.#reconnect();
    }
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearTimeout(this.#timer);
    for (const runId of [...this.#waiters.keys()]) this.#wake(runId);
    await this.#client?.end().catch(() => {});
  }

  /**
   * Reads until the run is where the caller waits for it, or the time has passed: then the last view is the answer.
   *
   * @param signal aborted when the caller went away
   */
  async wait(runId: string, read: () => Promise<RunView>, until: Until, timeoutMs: number, signal?: AbortSignal): Promise<RunView> {
    const deadline = performance.now() + timeoutMs;
    for (;;) {
      // Listen first, read then: what happens in between is not missed.
      const change = this.#nextChange(runId);
      try {
        const view = await read();
        const left = deadline - performance.now();
        if (isReached(view, until) || left <= 0 || this.#stopped || signal?.aborted) return view;
        await change.within(Math.min(left, POLL_MS));
      } finally {
        change.cancel();
      }
    }
  }

  #nextChange(runId: string): { within(ms: number): Promise<void>; cancel(): void } {
    const waiters = this.#waiters.get(runId) ?? new Set();
    this.#waiters.set(runId, waiters);
    let wake = (): void => {};
    const changed = new Promise<void>((resolve) => {
      wake = resolve;
    });
    waiters.add(wake);
    let timer: NodeJS.Timeout | undefined;
    return {
      within(ms) {
        timer = setTimeout(wake, ms);
        return changed;
      },
      cancel: () => {
        clearTimeout(timer);
        waiters.delete(wake);
        if (waiters.size === 0) this.#waiters.delete(runId);
      },
    };
  }

  #wake(runId: string): void {
    for (const wake of this.#waiters.get(runId) ?? []) wake();
  }

  #reconnect(): void {
    if (this.#stopped) return;
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.start(), RECONNECT_MS);
  }
}
