/** Keeps the parts of the stack running: starts them, restarts one that ends by itself, stops all in reverse order. */
import type { ChildProcess } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { messageOf } from '../../core/errors.ts';
import { identify, stopProcess } from './processes.ts';
import type { PartRecord } from './state.ts';
import type { Report } from './programs.ts';

export interface Part {
  name: string;
  /** Starts the process, tells of it at once, resolves when it is ready. Cleans up after itself when that fails. */
  start: (onSpawn: (child: ChildProcess) => void) => Promise<unknown>;
  /** Sent in turn until it ends. */
  signals: NodeJS.Signals[];
  graceMs: number;
}

export interface Supervisor {
  /** Starts a part for the first time; throws when that does not work. */
  start(part: Part): Promise<void>;
  stopAll(): Promise<void>;
}

const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;
/** A part that ran this long is healthy: the next failure starts with the short pause again. */
const HEALTHY_MS = 60_000;

interface Running {
  part: Part;
  child: ChildProcess | undefined;
  record: PartRecord | undefined;
}

/**
 * @param report hears of parts that end and come back
 * @param onChange gets the processes that run now; awaited by nobody
 */
export function createSupervisor(report: Report, onChange: (parts: PartRecord[]) => void): Supervisor {
  const running: Running[] = [];
  const stopping = new AbortController();

  const launch = async (slot: Running): Promise<void> => {
    if (stopping.signal.aborted) throw new Error('the stack is being stopped');
    await slot.part.start((child) => {
      // Stopped while this start was under way: what it spawns now nobody would stop later.
      if (stopping.signal.aborted) child.kill('SIGKILL');
      const identity = child.pid === undefined ? undefined : identify(child.pid);
      slot.child = child;
      slot.record = identity === undefined ? undefined : { name: slot.part.name, ...identity };
      onChange(running.flatMap((each) => (each.record === undefined ? [] : [each.record])));
    });
  };

  const watch = async (slot: Running): Promise<void> => {
    let pause = FIRST_PAUSE_MS;
    while (!stopping.signal.aborted) {
      const started = performance.now();
      const how = await ended(slot.child);
      if (stopping.signal.aborted) return;
      if (performance.now() - started > HEALTHY_MS) pause = FIRST_PAUSE_MS;
      report(`${slot.part.name} ended by itself (${how}); starting it again in ${pause / 1000} s`);
      for (;;) {
        if (!(await pauseFor(pause, stopping.signal))) return;
        pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
        try {
          await launch(slot);
          report(`${slot.part.name} is back`);
          break;
        } catch (error) {
          if (stopping.signal.aborted) return;
          report(`${slot.part.name} did not start: ${messageOf(error)}; next attempt in ${pause / 1000} s`);
        }
      }
    }
  };

  return {
    start: async (part) => {
      const slot: Running = { part, child: undefined, record: undefined };
      running.push(slot);
      await launch(slot);
      void watch(slot);
    },
    stopAll: async () => {
      stopping.abort();
      for (const slot of [...running].reverse()) {
        if (slot.record !== undefined) await stopProcess(slot.record, slot.part.signals, slot.part.graceMs);
      }
    },
  };
}

function ended(child: ChildProcess | undefined): Promise<string> {
  return new Promise((resolve) => {
    if (child === undefined) return resolve('never started');
    const say = (code: number | null, signal: NodeJS.Signals | null): void => resolve(signal ?? `exit code ${code ?? 'unknown'}`);
    if (child.exitCode !== null || child.signalCode !== null) return say(child.exitCode, child.signalCode);
    child.once('exit', say);
  });
}

async function pauseFor(ms: number, signal: AbortSignal): Promise<boolean> {
  return await sleep(ms, undefined, { signal }).then(
    () => true,
    () => false,
  );
}
