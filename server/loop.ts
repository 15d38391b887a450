/** A piece of work that is done again and again until it is stopped. */
import { messageOf } from '../core/errors.ts';
import type { Log } from './ports.ts';

export interface Loop {
  /** Does the work as soon as it can. */
  wake(): void;
  /** Waits for the work in hand. */
  stop(): Promise<void>;
}

/**
 * @param work answers the milliseconds until it wants to be called again; what it throws is logged, and it is called
 *   again after `retryMs`
 */
export function startLoop(name: string, work: () => Promise<number>, log: Log, retryMs = 5_000): Loop {
  let stopped = false;
  let timer: NodeJS.Timeout | undefined;
  let release: (() => void) | undefined;
  let woken = false;

  const rest = (ms: number): Promise<void> =>
    new Promise((resolve) => {
      release = resolve;
      timer = setTimeout(resolve, ms);
    });
  const run = async (): Promise<void> => {
    while (!stopped) {
      woken = false;
      let pause = retryMs;
      try {
        pause = await work();
      } catch (error) {
        log.warn({ loop: name, error: messageOf(error) }, `${name} failed and will be tried again`);
      }
      if (!stopped && !woken) await rest(pause);
      clearTimeout(timer);
    }
  };
  const running = run();
  return {
    wake() {
      woken = true;
      release?.();
    },
    stop() {
      stopped = true;
      release?.();
      return running;
    },
  };
}
