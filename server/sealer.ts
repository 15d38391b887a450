/** Seals: signs where the chains stand, in a file that the database does not reach, and in the database. */
import { ledgerNow } from '../adapters/chain.ts';
import {
  CheckpointFile,
  checkpointDigest,
  HEADS_PER_CHECKPOINT,
  openCheckpoint,
  type SealedHead,
  signCheckpoint,
  type StoredCheckpoint,
} from '../adapters/checkpoint.ts';
import { type Client, transaction } from '../adapters/database.ts';
import { type Loop, startLoop } from './loop.ts';
import type { ServerContext } from './ports.ts';

/** Serialises sealing over all processes, and lets a verifier read file and database at one moment. */
export const SEAL_LOCK = `hashtext('holdpoint-sealer')`;

const POLL_MS = 1_000;
const SEAL_EVERY_MS = 10_000;

/** Seals every 10 s what changed, and within about a second whatever belongs to a run that stopped. */
export function startSealer(context: ServerContext, file: CheckpointFile): Loop {
  let sealedAt = 0;
  return startLoop(
    'sealer',
    async () => {
      const due = performance.now() - sealedAt >= SEAL_EVERY_MS;
      if (due ? await hasUnsealed(context) : await hasStopped(context)) {
        await sealAll(context, file);
        sealedAt = performance.now();
      }
      return POLL_MS;
    },
    context.log,
  );
}

async function hasUnsealed({ pool }: ServerContext): Promise<boolean> {
  return (await pool.query('SELECT 1 FROM run_heads WHERE sealed_seq < seq LIMIT 1')).rows.length > 0;
}

async function hasStopped({ pool }: ServerContext): Promise<boolean> {
  const sql = `SELECT 1 FROM run_heads h JOIN audit_events e ON e.run_id = h.run_id AND e.seq = h.seq
    WHERE h.sealed_seq < h.seq AND e.outcome = 'run_stopped' LIMIT 1`;
  return (await pool.query(sql)).rows.length > 0;
}

/** Writes checkpoints until nothing is unsealed. @returns how many */
export async function sealAll(context: ServerContext, file: CheckpointFile): Promise<number> {
  for (let written = 0; ; written += 1) {
    const heads = await sealOnce(context, file);
    if (heads === 0) return written;
    if (heads < HEADS_PER_CHECKPOINT) return written + 1;
  }
}

async function sealOnce(context: ServerContext, file: CheckpointFile): Promise<number> {
  return transaction(context.pool, async (client) => {
    await client.query(`SELECT pg_advisory_xact_lock(${SEAL_LOCK})`);
    const last = await newestCheckpoint(context, client, file);
    const heads = await unsealedHeads(client);
    if (heads.length === 0) return 0;
    const { rows } = await client.query<{ n: number }>('SELECT count(*) AS n FROM run_heads WHERE seq > 0');
    const at = await ledgerNow(client);
    const checkpoint = await signCheckpoint(context.keys, last, { at: at.toISOString(), heads, total_runs: rows[0]?.n ?? 0 });
    // The file first: a checkpoint that only the database holds would look as if the file had been cut.
    await file.append(checkpoint);
    await insertCheckpoint(client, checkpoint, heads);
    return heads.length;
  });
}

async function unsealedHeads(client: Client): Promise<SealedHead[]> {
  const sql = 'SELECT run_id, seq, hash FROM run_heads WHERE sealed_seq < seq ORDER BY run_id LIMIT $1';
  const { rows } = await client.query<{ run_id: string; seq: number; hash: string }>(sql, [HEADS_PER_CHECKPOINT]);
  return rows.map(({ run_id, seq, hash }) => [run_id, seq, hash]);
}

async function insertCheckpoint(client: Client, checkpoint: StoredCheckpoint, heads: readonly SealedHead[]): Promise<void> {
  await client.query('INSERT INTO checkpoints (n, at, jws) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING', [checkpoint.n, checkpoint.at, checkpoint.jws]);
  // Waits for nobody: a head that somebody holds is sealed again next time, which does no harm, and no deadlock is possible.
  await client.query(
    `WITH sealed AS (SELECT * FROM unnest($1::text[], $2::bigint[]) AS s (run_id, seq)),
       free AS (SELECT h.run_id FROM run_heads h JOIN sealed USING (run_id) FOR UPDATE OF h SKIP LOCKED)
     UPDATE run_heads h SET sealed_seq = greatest(h.sealed_seq, s.seq) FROM sealed s JOIN free USING (run_id) WHERE h.run_id = s.run_id`,
    [heads.map(([runId]) => runId), heads.map(([, seq]) => seq)],
  );
}

/**
 * The checkpoint to go on from: the file's last, or the database's when it is further (the file was lost). One that a
 * crash kept out of the database is put there; older gaps stay, for `audit verify` to name.
 */
async function newestCheckpoint(context: ServerContext, client: Client, file: CheckpointFile): Promise<StoredCheckpoint | undefined> {
  const inFile = await file.last();
  const { rows } = await client.query<{ n: number; at: Date; jws: string }>('SELECT n, at, jws FROM checkpoints ORDER BY n DESC LIMIT 1');
  const stored = rows[0] && { n: rows[0].n, at: rows[0].at.toISOString(), jws: rows[0].jws };
  if (!inFile) return stored && (await ownCheckpoint(context, stored));
  const opened = await openCheckpoint(context.keys.pinned, inFile);
  if (opened.ok && inFile.n === (stored?.n ?? 0) + 1 && opened.claims.prev === (stored ? checkpointDigest(stored.jws) : null)) {
    await insertCheckpoint(client, inFile, opened.claims.heads);
    return inFile;
  }
  if (!stored || stored.n <= inFile.n) return inFile;
  return (await ownCheckpoint(context, stored)) ?? inFile;
}

/** A row that we did not sign is no checkpoint to go on from. */
async function ownCheckpoint(context: ServerContext, stored: StoredCheckpoint): Promise<StoredCheckpoint | undefined> {
  return (await openCheckpoint(context.keys.pinned, stored)).ok ? stored : undefined;
}
