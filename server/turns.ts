/** Lets a few work at a time; others wait for their turn, first come, first served. */

/** Ends a turn. Twice is once. */
export type Done = () => void;

export interface Turns {
  /** Waits for a turn. Rejects when the caller has gone away before it came. */
  take(signal?: AbortSignal): Promise<Done>;
}

export function createTurns(count: number): Turns {
  let free = count;
  const waiting: (() => void)[] = [];

  const pass = (): void => {
    const next = waiting.shift();
    if (next) next();
    else free += 1;
  };
  const once = (): Done => {
    let done = false;
    return () => {
      if (!done) pass();
      done = true;
    };
  };
  return {
    async take(signal) {
      if (free > 0) free -= 1;
      else await new Promise<void>((resolve) => waiting.push(resolve));
      const done = once();
      if (signal?.aborted) {
        done();
        signal.throwIfAborted();
      }
      return done;
    },
  };
}
