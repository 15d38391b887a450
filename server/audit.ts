/** The audit trail over HTTP: pages, export, verification. */
import type { AuditEvent } from '../core/audit.ts';
import type { AuditPage, AuditReport, ExportLine } from '../client/types.ts';
import { verifyAudit } from '../adapters/audit-verify.ts';
import type { CheckpointFile, StoredCheckpoint } from '../adapters/checkpoint.ts';
import { type Client, type Pool, transaction } from '../adapters/database.ts';
import { HoldpointError } from '../core/errors.ts';
import { isStorable } from '../core/text.ts';
import type { ServerContext } from './ports.ts';
import { SEAL_LOCK } from './sealer.ts';
import type { Turns } from './turns.ts';

const COLUMNS = `run_id, seq, event_key, at, agent, owner, requester, tool, tool_hash, call_id, pending_id, outcome, reason, detail, rule, tier,
  policy_hash, args_hash, approver, token, result, prev_hash, hash`;
const BATCH = 2_000;

type EventRow = Omit<AuditEvent, 'at'> & { at: Date };

const eventOf = (row: EventRow): AuditEvent => ({ ...row, at: isoOf(row.at) });

/** A time that no writer of ours can have written (`infinity`) stays readable, and fails its hash. */
export function isoOf(time: unknown): string {
  return time instanceof Date && !Number.isNaN(time.getTime()) ? time.toISOString() : String(time);
}

export interface AuditFilter {
  run?: string | undefined;
  since?: Date | undefined;
  tool?: string | undefined;
  outcome?: string | undefined;
  cursor?: string | undefined;
  limit: number;
}

/** Events in order of time, run and number. */
export async function auditPage(pool: Pool, filter: AuditFilter): Promise<AuditPage> {
  const after = filter.cursor === undefined ? undefined : readCursor(filter.cursor);
  const { rows } = await pool.query<EventRow>(
    `SELECT ${COLUMNS} FROM audit_events
     WHERE ($1::text IS NULL OR run_id = $1) AND ($2::timestamptz IS NULL OR at >= $2) AND ($3::text IS NULL OR tool = $3) AND ($4::text IS NULL OR outcome = $4)
     AND ($5::timestamptz IS NULL OR (at, run_id, seq) > ($5, $6, $7::bigint))
     ORDER BY at, run_id, seq LIMIT $8`,
    [
      filter.run ?? null,
      filter.since ?? null,
      filter.tool ?? null,
      filter.outcome ?? null,
      after?.at ?? null,
      after?.run_id ?? null,
      after?.seq ?? null,
      filter.limit + 1,
    ],
  );
  const events = rows.slice(0, filter.limit).map(eventOf);
  const last = events.at(-1);
  return { events, next: rows.length > filter.limit && last ? writeCursor(last) : null };
}

export function writeCursor({ at, run_id, seq }: Pick<AuditEvent, 'at' | 'run_id' | 'seq'>): string {
  return Buffer.from(JSON.stringify([at, run_id, seq])).toString('base64url');
}

export function readCursor(cursor: string): { at: Date; run_id: string; seq: number } {
  try {
    const value: unknown = JSON.parse(Buffer.from(cursor, 'base64url').toString('utf8'));
    if (Array.isArray(value)) {
      const [at, runId, seq] = value as unknown[];
      const time = new Date(String(at));
      const possible = time.getUTCFullYear() > 0 && time.getUTCFullYear() < 10_000;
      if (possible && typeof runId === 'string' && isStorable(runId) && Number.isSafeInteger(seq)) return { at: time, run_id: runId, seq: Number(seq) };
    }
  } catch {
    // Falls through to the refusal.
  }
  throw new HoldpointError('invalid_request', 'cursor: not one that this API gave out');
}

interface Snapshot {
  readonly fileLines: string[] | undefined;
  readonly stored: StoredCheckpoint[];
  readonly heads: ReadonlyMap<string, { seq: number; hash: string }>;
  events(run?: string): AsyncGenerator<AuditEvent>;
  close(): Promise<void>;
}

/**
 * The whole trail at one moment. The lock keeps the sealer from writing while the file is read and the snapshot taken,
 * and the file is read first: all that it names must be in the database then.
 */
async function openSnapshot(pool: Pool, file: CheckpointFile): Promise<Snapshot> {
  const reader = await pool.connect();
  const close = async (): Promise<void> => {
    const broken = await reader.query('ROLLBACK').then(
      () => undefined,
      (error: unknown) => (error instanceof Error ? error : true),
    );
    reader.release(broken);
  };
  try {
    const { fileLines, stored } = await transaction(pool, async (client) => {
      await client.query(`SELECT pg_advisory_xact_lock_shared(${SEAL_LOCK})`);
      const lines = await file.lines();
      await reader.query('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY');
      // Whoever downloads an export slowly is not cut off at once.
      await reader.query(`SET LOCAL idle_in_transaction_session_timeout = '10min'`);
      return { fileLines: lines, stored: await readCheckpoints(reader) };
    });
    const { rows } = await reader.query<{ run_id: string; seq: number; hash: string }>('SELECT run_id, seq, hash FROM run_heads');
    return { fileLines, stored, heads: new Map(rows.map((row) => [row.run_id, row])), events: (run) => readEvents(reader, run), close };
  } catch (error) {
    await close();
    throw error;
  }
}

async function readCheckpoints(client: Client): Promise<StoredCheckpoint[]> {
  const { rows } = await client.query<{ n: number; at: Date; jws: string }>('SELECT n, at, jws FROM checkpoints ORDER BY n');
  return rows.map((row) => ({ n: row.n, at: isoOf(row.at), jws: row.jws }));
}

async function* readEvents(client: Client, run: string | undefined): AsyncGenerator<AuditEvent> {
  let runId = '';
  let seq = 0;
  for (;;) {
    const { rows } = await client.query<EventRow>(
      `SELECT ${COLUMNS} FROM audit_events WHERE (run_id, seq) > ($1, $2::bigint) AND ($3::text IS NULL OR run_id = $3) ORDER BY run_id, seq LIMIT $4`,
      [runId, seq, run ?? null, BATCH],
    );
    for (const row of rows) yield eventOf(row);
    const last = rows.at(-1);
    if (!last || rows.length < BATCH) return;
    runId = last.run_id;
    seq = last.seq;
  }
}

/** What reads a whole trail. */
export interface AuditReading {
  readonly context: ServerContext;
  readonly file: CheckpointFile;
  /** A snapshot holds a connection for as long as its reader takes: only so many at a time, or none were left to decide with. */
  readonly turns: Turns;
  /** Aborted when the reader went away. */
  readonly signal: AbortSignal;
}

async function takeSnapshot({ context, file, turns, signal }: AuditReading): Promise<Snapshot> {
  const done = await turns.take(signal);
  try {
    const snapshot = await openSnapshot(context.pool, file);
    return { ...snapshot, close: () => snapshot.close().finally(done) };
  } catch (error) {
    done();
    throw error;
  }
}

export async function auditReport(reading: AuditReading): Promise<AuditReport> {
  const { fileLines, stored, heads, events, close } = await takeSnapshot(reading);
  try {
    return await verifyAudit({ events: events(), fileLines: fileLines ?? [], stored, keys: reading.context.keys.pinned, heads });
  } finally {
    await close();
  }
}

/** Lines of an export: keys, checkpoints, events. Without `run` whole, with it that run's events alone. */
async function* exportLines(reading: AuditReading, run: string | undefined): AsyncGenerator<ExportLine> {
  const { stored, events, close } = await takeSnapshot(reading);
  try {
    for (const jwk of reading.context.keys.trusted) yield { type: 'key', kid: jwk.kid, jwk: { ...jwk } };
    for (const { n, at, jws } of stored) yield { type: 'checkpoint', n, at, jws };
    for await (const event of events(run)) yield { type: 'event', event };
  } finally {
    await close();
  }
}

const CHUNK = 65_536;

async function* exportChunks(reading: AuditReading, run: string | undefined): AsyncGenerator<Uint8Array> {
  let text = '';
  for await (const line of exportLines(reading, run)) {
    text += `${JSON.stringify(line)}\n`;
    if (text.length < CHUNK) continue;
    yield Buffer.from(text, 'utf8');
    text = '';
  }
  yield Buffer.from(text, 'utf8');
}

/** An export as NDJSON. Ends with an error, and so breaks the connection off, when it cannot be whole. */
export async function exportAudit(reading: AuditReading, run: string | undefined): Promise<ReadableStream<Uint8Array>> {
  const chunks = exportChunks(reading, run);
  // What fails before the first chunk is still a problem document.
  let next: IteratorResult<Uint8Array, void> | undefined = await chunks.next();
  return new ReadableStream<Uint8Array>(
    {
      async pull(controller) {
        const { done, value } = next ?? (await chunks.next());
        next = undefined;
        if (done) controller.close();
        else controller.enqueue(value);
      },
      // Also before anything was read: a snapshot that nobody closes would keep its connection for ever.
      async cancel() {
        await chunks.return(undefined);
      },
    },
    { highWaterMark: 0 },
  );
}
