/** Tells Temporal of committed decisions: at once, and again until it has taken them. A second signal is harmless. */
import { setTimeout as sleep } from 'node:timers/promises';
import type { Pool } from '../adapters/database.ts';
import { messageOf } from '../core/errors.ts';
import type { DecisionToDeliver } from './decisions.ts';
import { type Loop, startLoop } from './loop.ts';
import type { ServerContext } from './ports.ts';

export interface Delivery {
  /** Starts to deliver one decision now and does not wait for it; what fails, the loop repeats. */
  deliverSoon(decision: DecisionToDeliver): void;
  stop(): Promise<void>;
}

const BATCH = 100;
const AT_ONCE = 10;
const MIN_PAUSE_MS = 1_000;
const MAX_PAUSE_MS = 10_000;

/** The loop leaves what is this young to whoever committed it. */
const FRESH_MS = 2_000;

export function startDelivery(context: ServerContext): Delivery {
  const inFlight = new Set<Promise<void>>();
  let pause = MIN_PAUSE_MS;
  const loop: Loop = startLoop(
    'delivery',
    async () => {
      const { delivered, failed } = await deliverDue(context);
      pause = failed > 0 && delivered === 0 ? Math.min(pause * 2, MAX_PAUSE_MS) : MIN_PAUSE_MS;
      return pause;
    },
    context.log,
  );
  return {
    deliverSoon(decision) {
      const attempt = deliverNow(context, decision).then(
        (taken) => {
          // Temporal is back: what waited need not wait longer.
          if (taken && pause > MIN_PAUSE_MS) loop.wake();
        },
        (error: unknown) => context.log.warn({ decision_id: decision.decision_id, error: messageOf(error) }, 'a decision waits for its delivery'),
      );
      inFlight.add(attempt);
      void attempt.finally(() => inFlight.delete(attempt));
    },
    async stop() {
      await loop.stop();
      await Promise.allSettled(inFlight);
    },
  };
}

/** Delivers what is due, the least often tried first, so that a bad one does not hold up others. */
export async function deliverDue(context: ServerContext): Promise<{ delivered: number; failed: number }> {
  const { rows } = await context.pool.query<DecisionToDeliver>(
    `SELECT decision_id, run_id, pending_id, outcome, token FROM decisions
     WHERE delivered_at IS NULL AND decided_at < clock_timestamp() - $1 * interval '1 millisecond'
     ORDER BY attempts, decided_at LIMIT $2`,
    [FRESH_MS, BATCH],
  );
  let delivered = 0;
  let failed = 0;
  for (let first = 0; first < rows.length; first += AT_ONCE) {
    const taken = await Promise.all(rows.slice(first, first + AT_ONCE).map((decision) => deliverNow(context, decision)));
    delivered += taken.filter(Boolean).length;
    failed += taken.filter((one) => !one).length;
    // A server that is down answers nobody: what is left waits for the next round.
    if (delivered === 0) break;
  }
  return { delivered, failed };
}

/** Long enough to be out of the way of the run that was woken, and for some deliveries to share a commit. */
const NOTE_AFTER_MS = 20;

/** Notes deliveries together. A note that is lost in a crash costs a second signal, which is harmless. */
function createNotes(pool: Pool): (decisionId: string) => Promise<void> {
  let ids: string[] = [];
  let writing: Promise<void> | undefined;
  const write = async (): Promise<void> => {
    await sleep(NOTE_AFTER_MS);
    const written = ids;
    ids = [];
    writing = undefined;
    // Locked in one order: another `serve` may note some of the same.
    await pool.query(
      `UPDATE decisions SET delivered_at = clock_timestamp(), attempts = attempts + 1 WHERE decision_id IN (
         SELECT decision_id FROM decisions WHERE decision_id = ANY($1) AND delivered_at IS NULL ORDER BY decision_id FOR UPDATE)`,
      [written],
    );
  };
  return (decisionId) => {
    ids.push(decisionId);
    return (writing ??= write());
  };
}

const notes = new WeakMap<Pool, ReturnType<typeof createNotes>>();

function note(pool: Pool, decisionId: string): Promise<void> {
  let own = notes.get(pool);
  if (!own) notes.set(pool, (own = createNotes(pool)));
  return own(decisionId);
}

/** Delivers one decision and notes it. False: Temporal did not take it, and the loop will try again. */
export async function deliverNow(context: ServerContext, decision: DecisionToDeliver): Promise<boolean> {
  const { decision_id, run_id, pending_id, outcome, token } = decision;
  try {
    const taken = await context.runs.deliver({ run_id, pending_id, outcome, token });
    await note(context.pool, decision_id);
    context.log.debug({ decision_id, run_id, taken }, 'a decision was delivered');
    return true;
  } catch (error) {
    context.log.warn({ decision_id, run_id, error: messageOf(error) }, 'Temporal did not take a decision; it will be told again');
    await context.pool.query('UPDATE decisions SET attempts = attempts + 1 WHERE decision_id = $1', [decision_id]).catch(() => {});
    return false;
  }
}
