/** The audit chain in PostgreSQL: one lock and one writer at a time per run. */
import { type AuditFacts, chainEvent, GENESIS } from '../core/audit.ts';
import { storableText } from '../core/text.ts';
import { type Client, prepared } from './database.ts';
import { hashJson } from './hashing.ts';

/** End of a run's chain, locked until the transaction ends. */
export interface ChainHead {
  readonly run_id: string;
  seq: number;
  hash: string;
  /** The ledger's clock, read after the lock. */
  readonly at: Date;
}

/** Locks a run: nothing else happens to it until the transaction ends. Makes its chain when it is new. */
export async function lockHead(client: Client, runId: string): Promise<ChainHead> {
  const { rows } = await client.query<{ seq: number; hash: string; at: Date }>(prepared('SELECT seq, hash, at FROM lock_run($1, $2)', [runId, GENESIS]));
  const [row] = rows;
  if (!row) throw new Error(`run ${runId} cannot be locked`);
  return { run_id: runId, ...row };
}

/** The one clock. `now()` would be the transaction's start and backdate whoever waited for a lock. */
export async function ledgerNow(client: Client): Promise<Date> {
  const { rows } = await client.query<{ now: Date }>(`SELECT date_trunc('milliseconds', clock_timestamp()) AS now`);
  const now = rows[0]?.now;
  if (!now) throw new Error('the database did not tell the time');
  return now;
}

const COLUMNS = [
  'run_id',
  'seq',
  'event_key',
  'at',
  'agent',
  'owner',
  'requester',
  'tool',
  'tool_hash',
  'call_id',
  'pending_id',
  'outcome',
  'reason',
  'detail',
  'rule',
  'tier',
  'policy_hash',
  'args_hash',
  'approver',
  'token',
  'result',
  'prev_hash',
  'hash',
] as const;
const APPEND = `WITH added AS (
    INSERT INTO audit_events (${COLUMNS.join(', ')}) VALUES (${COLUMNS.map((_, i) => `$${i + 1}`).join(', ')})
    ON CONFLICT (run_id, event_key) DO NOTHING RETURNING seq)
  UPDATE run_heads SET seq = $2, hash = $23 WHERE run_id = $1 AND EXISTS (SELECT 1 FROM added)`;

function storableFacts(facts: AuditFacts): AuditFacts {
  const entries = Object.entries(facts).map(([name, value]) => [name, typeof value === 'string' ? storableText(value) : value]);
  return Object.fromEntries(entries) as AuditFacts;
}

/**
 * Appends an event to a locked chain. An event whose key is there already is not written again.
 *
 * @param now time of the event, read from {@link ledgerNow} after the lock
 */
export async function appendAudit(client: Client, head: ChainHead, facts: AuditFacts, now: Date): Promise<void> {
  const event = chainEvent(head, storableFacts(facts), now.toISOString(), hashJson);
  const { rowCount } = await client.query(
    prepared(
      APPEND,
      COLUMNS.map((column) => event[column]),
    ),
  );
  if (rowCount === 1) {
    head.seq = event.seq;
    head.hash = event.hash;
  }
}
