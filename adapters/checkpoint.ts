/** Checkpoints: the decision service's signed word on where every run's chain stood, kept outside the database too. */
import { createHash } from 'node:crypto';
import { mkdir, open, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { TOKEN_ISSUER } from '../core/contracts.ts';
import { HoldpointError } from '../core/errors.ts';
import { sha256 } from './hashing.ts';
import { type PinnedKeys, signJws, verifyJws } from './jws.ts';
import type { SigningKeys } from './keys.ts';

const TYP = 'holdpoint-checkpoint+jwt';
/** Heads in one checkpoint; more changed runs make several checkpoints. */
export const HEADS_PER_CHECKPOINT = 1000;
const MAX_BYTES = 2 * 1024 * 1024;

/** `[run_id, seq, hash]` of the last event of a run. */
const Head = z.tuple([z.string().min(1), z.int().min(1), z.string()]);
export type SealedHead = z.infer<typeof Head>;

const CheckpointClaims = z.strictObject({
  iss: z.literal(TOKEN_ISSUER),
  /** From 1, without gaps. */
  n: z.int().min(1),
  at: z.iso.datetime(),
  /** `sha256:` of the checkpoint before, null for the first. */
  prev: z.string().nullable(),
  /** Merkle root over `heads`. */
  root: z.string(),
  heads: z.array(Head).max(HEADS_PER_CHECKPOINT),
  /** Runs that had events at that time, changed or not. */
  total_runs: z.int().min(0),
});
export type CheckpointClaims = z.infer<typeof CheckpointClaims>;

const CheckpointLine = z.strictObject({ n: z.int().min(1), at: z.iso.datetime(), jws: z.string().max(MAX_BYTES) });
/** A checkpoint as stored: a line of `checkpoints.jsonl`, a row of the table `checkpoints`. */
export type StoredCheckpoint = z.infer<typeof CheckpointLine>;

export const checkpointDigest = (jws: string): string => sha256(jws);

const digest = (prefix: number, ...parts: Uint8Array[]): Buffer => {
  const hash = createHash('sha256').update(Uint8Array.of(prefix));
  for (const part of parts) hash.update(part);
  return hash.digest();
};

/** RFC 6962 tree: leaves and nodes are hashed under different prefixes, so that no node can pass for a leaf. */
export function merkleRoot(heads: readonly SealedHead[]): string {
  const leaves = heads.map((head) => digest(0, Buffer.from(JSON.stringify(head), 'utf8')));
  return `sha256:${subtree(leaves).toString('hex')}`;
}

function subtree(leaves: readonly Buffer[]): Buffer {
  const [first] = leaves;
  if (first === undefined) return createHash('sha256').digest();
  if (leaves.length === 1) return first;
  let half = 1;
  while (half * 2 < leaves.length) half *= 2;
  return digest(1, subtree(leaves.slice(0, half)), subtree(leaves.slice(half)));
}

/** Order of heads in a checkpoint: by code unit, which no locale changes. */
export const byRunId = (a: SealedHead, b: SealedHead): number => (a[0] < b[0] ? -1 : a[0] > b[0] ? 1 : 0);

/** Makes the checkpoint after `last`. */
export async function signCheckpoint(
  keys: SigningKeys,
  last: StoredCheckpoint | undefined,
  facts: { at: string; heads: readonly SealedHead[]; total_runs: number },
): Promise<StoredCheckpoint> {
  const heads = [...facts.heads].sort(byRunId);
  const n = (last?.n ?? 0) + 1;
  const claims: CheckpointClaims = {
    iss: TOKEN_ISSUER,
    n,
    at: facts.at,
    prev: last ? checkpointDigest(last.jws) : null,
    root: merkleRoot(heads),
    heads,
    total_runs: facts.total_runs,
  };
  return { n, at: facts.at, jws: await signJws(claims, TYP, keys.active) };
}

/** Signature, shape, root and the outer members of one checkpoint; its place in the chain is the caller's to check. */
export async function openCheckpoint(
  keys: PinnedKeys,
  stored: StoredCheckpoint,
): Promise<{ ok: true; claims: CheckpointClaims } | { ok: false; reason: string }> {
  const verified = await verifyJws(keys, stored.jws, TYP, MAX_BYTES);
  if (!verified.ok) return { ok: false, reason: verified.reason };
  const claims = CheckpointClaims.safeParse(verified.payload);
  if (!claims.success) return { ok: false, reason: 'bad_claims' };
  if (claims.data.iss !== verified.key.iss || verified.key.sub !== undefined) return { ok: false, reason: 'wrong_issuer' };
  if (claims.data.n !== stored.n || claims.data.at !== stored.at) return { ok: false, reason: 'its number or time is not the signed one' };
  if (claims.data.root !== merkleRoot(claims.data.heads)) return { ok: false, reason: 'wrong_root' };
  return { ok: true, claims: claims.data };
}

export function parseCheckpointLine(line: string): StoredCheckpoint | undefined {
  try {
    return CheckpointLine.parse(JSON.parse(line));
  } catch {
    return undefined;
  }
}

/** `checkpoints.jsonl` in a directory of its own. */
export class CheckpointFile {
  readonly path: string;
  readonly #dir: string;

  constructor(dir: string) {
    this.#dir = dir;
    this.path = join(dir, 'checkpoints.jsonl');
  }

  /** All lines, or undefined when there is no file. */
  async lines(): Promise<string[] | undefined> {
    try {
      return (await readFile(this.path, 'utf8')).split('\n').filter((line) => line !== '');
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
      throw error;
    }
  }

  /** Appends and flushes to the disk: when this returns, no crash loses the line. */
  async append(checkpoint: StoredCheckpoint): Promise<void> {
    await mkdir(this.#dir, { recursive: true, mode: 0o700 });
    const file = await open(this.path, 'a', 0o600);
    try {
      await file.writeFile(`${JSON.stringify(checkpoint)}\n`);
      await file.sync();
    } finally {
      await file.close();
    }
  }

  /** The last whole line. What a crash left of a half-written one is cut off: no database row can be of it. */
  async last(): Promise<StoredCheckpoint | undefined> {
    let file;
    try {
      file = await open(this.path, 'r+');
    } catch (error) {
      if (error instanceof Error && 'code' in error && error.code === 'ENOENT') return undefined;
      throw error;
    }
    try {
      const { size } = await file.stat();
      const start = Math.max(0, size - 2 * MAX_BYTES);
      const tail = Buffer.alloc(size - start);
      await file.read(tail, 0, tail.length, start);
      const end = tail.lastIndexOf(0x0a);
      if (end + 1 < tail.length) await file.truncate(start + end + 1);
      if (end < 0) return undefined;
      const line = tail.subarray(tail.lastIndexOf(0x0a, end - 1) + 1, end).toString('utf8');
      const checkpoint = parseCheckpointLine(line);
      if (checkpoint) return checkpoint;
      throw new HoldpointError('audit_broken', `the last line of ${this.path} is not a checkpoint`, {
        hint: 'keep the file as it is and run: holdpoint audit verify',
      });
    } finally {
      await file.close();
    }
  }
}
