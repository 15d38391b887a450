/** Reads checkpoints from file and database, and says which heads they seal. */
import type { AuditFinding } from '../client/types.ts';
import { type CheckpointClaims, checkpointDigest, openCheckpoint, parseCheckpointLine, type StoredCheckpoint } from './checkpoint.ts';
import type { PinnedKeys } from './jws.ts';

/** A head that a valid checkpoint sealed. */
export interface Sealed {
  readonly seq: number;
  readonly hash: string;
  readonly n: number;
}

export interface CheckpointHistory {
  readonly count: number;
  readonly newest: number;
  readonly sealedUntil: string | null;
  /** Runs that the newest checkpoint counted. */
  readonly totalRuns: number;
  /** Sealed heads per run, in order of `seq`. */
  readonly sealed: ReadonlyMap<string, readonly Sealed[]>;
}

const FILE = 'checkpoints.jsonl';
const DATABASE = 'the ledger';

export async function readHistory(
  keys: PinnedKeys,
  fileLines: readonly string[] | undefined,
  stored: readonly StoredCheckpoint[],
  findings: AuditFinding[],
): Promise<CheckpointHistory> {
  const fromFile = fileLines && (await readChain(keys, parseLines(fileLines, findings), FILE, findings));
  const fromDatabase = await readChain(keys, stored, DATABASE, findings);
  if (fromFile) compareChains(fromFile, fromDatabase, findings);
  // The file counts before the database: who can rewrite the one need not reach the other.
  const merged = new Map([...fromDatabase, ...(fromFile ?? [])].sort(([a], [b]) => a - b));
  return summarise(merged);
}

type Chain = Map<number, { stored: StoredCheckpoint; claims: CheckpointClaims }>;

function parseLines(lines: readonly string[], findings: AuditFinding[]): StoredCheckpoint[] {
  return lines.flatMap((line, index) => {
    const checkpoint = parseCheckpointLine(line);
    if (checkpoint) return [checkpoint];
    findings.push(bad(`${FILE}:${index + 1}`, `line ${index + 1} of ${FILE} is not a checkpoint`));
    return [];
  });
}

const bad = (where: string, message: string): AuditFinding => ({ kind: 'bad_checkpoint', run_id: null, seq: null, where, message });
const missing = (where: string, message: string): AuditFinding => ({ kind: 'missing_checkpoint', run_id: null, seq: null, where, message });

async function readChain(keys: PinnedKeys, stored: readonly StoredCheckpoint[], place: string, findings: AuditFinding[]): Promise<Chain> {
  const chain: Chain = new Map();
  let before: (StoredCheckpoint & { valid: boolean }) | undefined;
  for (const checkpoint of stored) {
    const where = `checkpoint ${checkpoint.n} in ${place}`;
    const opened = await openCheckpoint(keys, checkpoint);
    if (!opened.ok) findings.push(bad(where, `${where} is not valid: ${opened.reason}`));
    else if (chain.has(checkpoint.n)) findings.push(bad(where, `${where} is there twice`));
    else {
      linkFindings(before, checkpoint, opened.claims, place, findings);
      chain.set(checkpoint.n, { stored: checkpoint, claims: opened.claims });
    }
    before = { ...checkpoint, valid: opened.ok };
  }
  return chain;
}

function linkFindings(
  before: (StoredCheckpoint & { valid: boolean }) | undefined,
  checkpoint: StoredCheckpoint,
  claims: CheckpointClaims,
  place: string,
  findings: AuditFinding[],
): void {
  const expected = (before?.n ?? 0) + 1;
  const where = `checkpoint ${checkpoint.n} in ${place}`;
  if (checkpoint.n > expected) findings.push(missing(`checkpoint ${expected} in ${place}`, `${range(expected, checkpoint.n - 1)} missing in ${place}`));
  else if (checkpoint.n < expected) findings.push(bad(where, `${where} stands behind checkpoint ${expected - 1}`));
  // Behind one that is no longer what was signed the link cannot fit; that one is named already.
  else if (before?.valid !== false && claims.prev !== (before ? checkpointDigest(before.jws) : null))
    findings.push(bad(where, `${where} was not written after the one that stands before it`));
}

const range = (from: number, to: number): string => (from === to ? `checkpoint ${from} is` : `checkpoints ${from} to ${to} are`);

function compareChains(file: Chain, database: Chain, findings: AuditFinding[]): void {
  for (const [n, { stored }] of file) {
    const other = database.get(n);
    if (other && other.stored.jws !== stored.jws) findings.push(bad(`checkpoint ${n}`, `checkpoint ${n} in ${FILE} and in ${DATABASE} differ`));
  }
  reportAbsent(file, database, FILE, DATABASE, findings);
  reportAbsent(database, file, DATABASE, FILE, findings);
}

/** One finding per gap, not per checkpoint: a deleted table is one sentence. */
function reportAbsent(present: Chain, absent: Chain, here: string, there: string, findings: AuditFinding[]): void {
  const gone = [...present.keys()].filter((n) => !absent.has(n)).sort((a, b) => a - b);
  let from = gone[0];
  gone.forEach((n, index) => {
    if (from === undefined) from = n;
    if (gone[index + 1] === n + 1) return;
    findings.push(missing(`checkpoint ${from} in ${there}`, `${range(from, n)} in ${here} but not in ${there}`));
    from = undefined;
  });
}

function summarise(chain: Chain): CheckpointHistory {
  const sealed = new Map<string, Sealed[]>();
  let newest: CheckpointClaims | undefined;
  for (const { claims } of chain.values()) {
    newest = claims;
    for (const [runId, seq, hash] of claims.heads) {
      const heads = sealed.get(runId) ?? [];
      heads.push({ seq, hash, n: claims.n });
      sealed.set(runId, heads);
    }
  }
  for (const heads of sealed.values()) heads.sort((a, b) => a.seq - b.seq);
  return { count: chain.size, newest: newest?.n ?? 0, sealedUntil: newest?.at ?? null, totalRuns: newest?.total_runs ?? 0, sealed };
}
