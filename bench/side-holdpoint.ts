/**
 * Holdpoint: runs are registered and started, decisions committed and signed by the service's own functions, and the same
 * signal is sent by the same client. `serve` itself does not run: its loops would deliver what is kept for the measured moment.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { createPool } from '../adapters/database.ts';
import { openSigningKeys, recordKeys } from '../adapters/keys.ts';
import { watchPolicy } from '../adapters/policy-watch.ts';
import { createSigner } from '../adapters/tokens.ts';
import type { RunFile } from '../core/contracts.ts';
import { decide, type DecisionToDeliver } from '../server/decisions.ts';
import { deliverNow } from '../server/delivery.ts';
import { applyIdentities } from '../server/identities.ts';
import type { ServerContext } from '../server/ports.ts';
import { startRun } from '../server/runs.ts';
import { runsOnTemporal } from '../server/temporal-runs.ts';
import { startWorker } from './process.ts';
import { newQueue, type OpenSide, type Side, TOOL, upTo } from './side.ts';
import type { Stand } from './stand.ts';

const POLICY = `approvals: { required_for: [${TOOL}], ttl_seconds: 86400 }\n`;
const APPROVER = { principal: 'bench-approver', roles: ['approver'] };
const quiet = { debug() {}, info() {}, warn() {}, error() {} };

interface Asked {
  run_id: string;
  pending_id: string;
  call_id: string;
  created_at: Date;
}

export interface HoldpointSide extends Side {
  readonly context: ServerContext;
  /** What `holdpoint worker` and `holdpoint serve` on this stand need in common. */
  readonly environment: Record<string, string>;
  /** Directory of what `serve` alone may see. */
  readonly serveFolder: string;
  readonly approverKey: string;
  pendingId(run: string, call: number): string;
  /** Starts a run with one call per step, planned by a script. */
  startScript(tool: string, calls: number): Promise<string>;
  /** Waits until the call of this step has asked. Its number is the step's. */
  askedInStep(run: string, step: number): Promise<void>;
}

export const openHoldpoint = async (stand: Stand, cache: number): Promise<HoldpointSide> => {
  const taskQueue = newQueue();
  const folder = join(stand.folder, taskQueue);
  const { context, environment, approverKey, close } = await openService(stand, folder, taskQueue);
  const worker = await startWorker('worker-holdpoint.ts', {
    ...environment,
    DATABASE_URL: stand.workerDatabaseUrl,
    HOLDPOINT_MAX_CACHED_RUNS: String(cache),
  });
  const signer = createSigner(context.keys);
  const runIds = new Map<string, string>();
  const pending = new Map<string, string>();
  const decided = new Map<string, DecisionToDeliver>();
  const idOf = (run: string): string => runIds.get(run) ?? '';
  const pendingId = (run: string, call: number): string => pending.get(`${idOf(run)}/${call}`) ?? '';
  const register = async (planned: (run: string) => Pick<RunFile, 'goal' | 'planner'>): Promise<string> => {
    const run = `${taskQueue}-${runIds.size + 1}`;
    runIds.set(run, '');
    runIds.set(run, await startRun(context, 'bench-owner', { agent: 'bench', requester: 'bench', ...planned(run) }, undefined));
    return run;
  };
  return {
    name: 'holdpoint',
    worker,
    context,
    environment,
    serveFolder: folder,
    approverKey,
    pendingId,
    start: (calls) => register((run) => ({ goal: JSON.stringify({ run, calls }), planner: { type: 'module', name: 'bench' } })),
    startScript: (tool, calls) =>
      register((run) => ({ planner: { type: 'script', calls: upTo(calls).map((index) => ({ tool, args: { run, call: index + 1 } })) } })),
    async askedInStep(run, step) {
      const requests = await openRequests(context, [idOf(run)], step);
      for (const { run_id, call_id, pending_id } of requests) pending.set(`${run_id}/${call_id.split('.')[0] ?? ''}`, pending_id);
    },
    async asked(runs, calls) {
      const requests = await openRequests(context, runs.map(idOf), runs.length * calls);
      for (const { run_id, call_id, pending_id } of requests) pending.set(`${run_id}/${call_id.split('.')[1] ?? ''}`, pending_id);
      return Math.max(...requests.map(({ created_at }) => created_at.getTime()));
    },
    async prepare(run, call) {
      const answer = await decide(context, signer, { principal: APPROVER, pending_id: pendingId(run, call), outcome: 'approved', reason: undefined });
      if (answer.toDeliver) decided.set(`${run}/${call}`, answer.toDeliver);
    },
    listening: async () => {},
    async send(run, call) {
      const decision = decided.get(`${run}/${call}`);
      if (!decision || !(await deliverNow(context, decision))) throw new Error(`the decision on call ${call} of ${run} was not delivered`);
    },
    workflowId: idOf,
    async close() {
      await worker.stop();
      await close();
    },
  };
};

openHoldpoint satisfies OpenSide;

async function openService(stand: Stand, folder: string, taskQueue: string) {
  await mkdir(folder, { mode: 0o700 });
  const policyFile = join(folder, 'holdpoint.yaml');
  await writeFile(policyFile, POLICY);
  const jwksFile = join(folder, 'jwks.json');
  const approverKey = `hp_${randomBytes(32).toString('base64url')}`;
  const identity = { principal: APPROVER.principal, roles: ['approver' as const], key_sha256: createHash('sha256').update(approverKey).digest('hex') };
  await writeFile(join(folder, 'identities.json'), JSON.stringify({ identities: [identity] }));
  const pool = createPool(stand.serveDatabaseUrl, { name: 'holdpoint-serve' });
  const keys = await openSigningKeys({ dir: join(folder, 'keys'), jwksFile });
  await recordKeys(pool, keys);
  await applyIdentities(pool, [identity]);
  const policy = await watchPolicy(policyFile, quiet);
  const context: ServerContext = { pool, keys, policy, runs: runsOnTemporal(stand.client, taskQueue), log: quiet, temporalWeb: undefined };
  const environment = { ...stand.temporalEnvironment, HOLDPOINT_TASK_QUEUE: taskQueue, HOLDPOINT_CONFIG: policyFile, HOLDPOINT_JWKS: jwksFile };
  const close = async (): Promise<void> => {
    policy.close();
    await pool.end();
  };
  return { context, environment, approverKey, close };
}

/** Waits for so many requests of these runs. The time that counts is the ledger's, so that looking seldom costs nothing. */
async function openRequests({ pool }: ServerContext, runIds: readonly string[], count: number): Promise<Asked[]> {
  for (;;) {
    const { rows } = await pool.query<{ n: number }>('SELECT count(*)::int AS n FROM approval_requests WHERE run_id = ANY($1)', [runIds]);
    if ((rows[0]?.n ?? 0) >= count) break;
    await sleep(100);
  }
  return (await pool.query<Asked>('SELECT run_id, pending_id, call_id, created_at FROM approval_requests WHERE run_id = ANY($1)', [runIds])).rows;
}
