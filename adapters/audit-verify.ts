/** Verifies an audit trail against its own chains and against signatures that the database cannot make. */
import { readFile } from 'node:fs/promises';
import { z } from 'zod';
import type { AuditFinding, AuditReport } from '../client/types.ts';
import type { AuditEvent } from '../core/audit.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { AUDIT_OUTCOMES } from '../core/words.ts';
import { ChainCheck } from './audit-chain.ts';
import { type CheckpointHistory, readHistory } from './audit-checkpoints.ts';
import type { StoredCheckpoint } from './checkpoint.ts';
import { parseKeySet, type PinnedKeys, pinKeys, publicKey } from './jws.ts';

export interface AuditSources {
  /** All events, grouped by run and in order of `seq`. */
  events: AsyncIterable<AuditEvent> | Iterable<AuditEvent>;
  /** Lines of `checkpoints.jsonl`, read before the events were; undefined when it is not to be compared. */
  fileLines?: readonly string[] | undefined;
  /** Rows of the database or lines of an export. */
  stored: readonly StoredCheckpoint[];
  keys: PinnedKeys;
  /** Rows of `run_heads`; undefined when they are not at hand. */
  heads?: ReadonlyMap<string, { seq: number; hash: string }> | undefined;
  /** Only this run was exported: others in the checkpoints are not missed. */
  run?: string | undefined;
}

/** Verifies everything. Streams: memory grows with runs and sealed heads, not with events. */
export async function verifyAudit(sources: AuditSources): Promise<AuditReport> {
  const findings: AuditFinding[] = [];
  const history = await readHistory(sources.keys, sources.fileLines, sources.stored, findings);
  const check = new ChainCheck(sources.keys, history, findings, sources.heads);
  for await (const event of sources.events) await check.add(event);
  check.finish(sources.run);
  if (sources.run === undefined) refuseLostRuns(check, history, findings);
  const { runs, events, grants } = check;
  return { ok: findings.length === 0, runs, events, checkpoints: history.count, grants, findings, sealed_until: history.sealedUntil };
}

/** Runs that no checkpoint names yet, but whose number the newest one tells. */
function refuseLostRuns(check: ChainCheck, history: CheckpointHistory, findings: AuditFinding[]): void {
  const lost = history.totalRuns - check.runs;
  if (lost <= 0 || check.missingRuns >= lost) return;
  const message = `checkpoint ${history.newest} counted ${history.totalRuns} runs, ${check.runs} are left`;
  findings.push({ kind: 'removed', run_id: null, seq: null, where: `checkpoint ${history.newest}`, message });
}

const nullable = z.string().nullable();
const EventLine = z.strictObject({
  type: z.literal('event'),
  event: z.strictObject({
    run_id: z.string().min(1),
    seq: z.int().min(1),
    event_key: z.string(),
    at: z.string(),
    agent: nullable,
    owner: nullable,
    requester: nullable,
    tool: nullable,
    tool_hash: nullable,
    call_id: nullable,
    pending_id: nullable,
    outcome: z.enum(AUDIT_OUTCOMES),
    reason: nullable,
    detail: nullable,
    rule: nullable,
    tier: nullable,
    policy_hash: nullable,
    args_hash: nullable,
    approver: nullable,
    token: nullable,
    result: nullable,
    prev_hash: z.string(),
    hash: z.string(),
  }),
});
const Line = z.discriminatedUnion('type', [
  EventLine,
  z.strictObject({ type: z.literal('checkpoint'), n: z.int(), at: z.string(), jws: z.string() }),
  z.strictObject({ type: z.literal('key'), kid: z.string(), jwk: z.record(z.string(), z.unknown()) }),
]);

/**
 * Verifies an export (NDJSON, `ExportLine` each: keys, checkpoints, then events) without a database.
 *
 * @param options.checkpointsFile `checkpoints.jsonl` kept outside the database: finds what was removed before the export
 * @param options.jwksFile pinned public keys; without it those in the export are believed, which proves nothing against who wrote it
 * @param options.run set when the export was made of this run alone
 * @throws HoldpointError `usage` with the line number when a line is no export line
 */
export async function verifyExport(
  lines: AsyncIterable<string> | Iterable<string>,
  options: { checkpointsFile?: string | undefined; jwksFile?: string | undefined; run?: string | undefined } = {},
): Promise<AuditReport> {
  const fileLines = options.checkpointsFile === undefined ? undefined : (await readText(options.checkpointsFile)).split('\n').filter((line) => line !== '');
  const reader = new ExportReader(lines);
  await reader.readPreamble();
  const keys = options.jwksFile === undefined ? await pinKeys(reader.keys.map(publicKey)) : await readPinned(options.jwksFile);
  return verifyAudit({ events: reader.events(), fileLines, stored: reader.checkpoints, keys, run: options.run });
}

/** Keys and checkpoints stand before the events, so that events can be checked as they come. */
class ExportReader {
  readonly keys: unknown[] = [];
  readonly checkpoints: StoredCheckpoint[] = [];
  readonly #lines: AsyncIterator<string> | Iterator<string>;
  #number = 0;
  #pending: AuditEvent | undefined;

  constructor(lines: AsyncIterable<string> | Iterable<string>) {
    this.#lines = Symbol.asyncIterator in lines ? lines[Symbol.asyncIterator]() : lines[Symbol.iterator]();
  }

  async readPreamble(): Promise<void> {
    for (let line = await this.#next(); line; line = await this.#next()) {
      if (line.type === 'event') {
        this.#pending = line.event;
        return;
      }
      if (line.type === 'key') this.keys.push(line.jwk);
      else this.checkpoints.push({ n: line.n, at: line.at, jws: line.jws });
    }
  }

  async *events(): AsyncGenerator<AuditEvent> {
    if (!this.#pending) return;
    yield this.#pending;
    for (let line = await this.#next(); line; line = await this.#next()) {
      if (line.type !== 'event') throw new HoldpointError('usage', `line ${this.#number} of the export: ${line.type} lines stand before the events`);
      yield line.event;
    }
  }

  async #next(): Promise<z.infer<typeof Line> | undefined> {
    for (;;) {
      const { value, done } = await this.#lines.next();
      if (done) return undefined;
      this.#number += 1;
      if (value.trim() !== '') return parseLine(value, this.#number);
    }
  }
}

function parseLine(text: string, number: number): z.infer<typeof Line> {
  try {
    return Line.parse(JSON.parse(text));
  } catch (error) {
    const what = error instanceof z.ZodError ? z.prettifyError(error) : messageOf(error);
    throw new HoldpointError('usage', `line ${number} is not a line of an audit export: ${what}`);
  }
}

async function readPinned(file: string): Promise<PinnedKeys> {
  const text = await readText(file);
  try {
    return await parseKeySet(text);
  } catch (error) {
    throw new HoldpointError('usage', `${file} is not a set of public keys: ${messageOf(error)}`, { cause: error });
  }
}

async function readText(file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch (error) {
    throw new HoldpointError('usage', `${file} cannot be read: ${messageOf(error)}`, { cause: error });
  }
}
