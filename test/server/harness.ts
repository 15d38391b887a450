/** A decision service on a real database and a real Temporal server, without a worker: what the gateway would write is written here, by its role. */
import { createHash, randomBytes } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Client } from '@temporalio/client';
import { inject } from 'vitest';
import { appendAudit, ledgerNow, lockHead } from '../../adapters/chain.ts';
import { createPool, type Pool, transaction } from '../../adapters/database.ts';
import { argsHash, canonical } from '../../adapters/hashing.ts';
import { newId } from '../../adapters/ids.ts';
import { HoldpointClient } from '../../client/index.ts';
import { auditFacts } from '../../core/audit.ts';
import { readServerConfig, type ServerConfig } from '../../server/config.ts';
import type { Log } from '../../server/ports.ts';
import { type Service, startService } from '../../server/service.ts';
import { runsOnTemporal } from '../../server/temporal-runs.ts';
import { connect } from '../support/environment.ts';
import { freshDatabase, temporaryFolder, type TestDatabase } from '../support/index.ts';

export const quiet: Log = { debug() {}, info() {}, warn() {}, error() {} };

export interface Person {
  principal: string;
  key: string;
  client: HoldpointClient;
}

export interface TestService {
  database: TestDatabase;
  admin: Pool;
  worker: Pool;
  serve: Pool;
  temporal: Client;
  config: ServerConfig;
  service: Service;
  folder: string;
  operator: Person;
  auditor: Person;
  approvers: Person[];
  /** Stops the service and starts it again on the same state. */
  restart(change?: Record<string, string>): Promise<void>;
  close(): Promise<void>;
}

const POLICY = 'approvals:\n  required_for: [email.send]\n';

export async function startTestService(options: { policy?: string; approvers?: number } = {}): Promise<TestService> {
  const database = await freshDatabase();
  const { path: folder, remove } = await temporaryFolder();
  const people = ['olga', 'audrey', ...Array.from({ length: options.approvers ?? 3 }, (_, index) => `approver-${index + 1}`)];
  const keys = new Map(people.map((principal) => [principal, `hp_${randomBytes(32).toString('base64url')}`]));
  const roles = (principal: string): string[] => (principal === 'olga' ? ['operator'] : principal === 'audrey' ? ['auditor'] : ['approver']);
  await writeFile(
    join(folder, 'identities.json'),
    JSON.stringify({
      identities: people.map((principal) => ({
        principal,
        roles: roles(principal),
        key_sha256: createHash('sha256')
          .update(keys.get(principal) ?? '')
          .digest('hex'),
      })),
    }),
  );
  await writeFile(join(folder, 'holdpoint.yaml'), options.policy ?? POLICY);
  await mkdir(join(folder, 'serve'), { mode: 0o700 });
  const environment = {
    DATABASE_URL: database.serveUrl,
    HOLDPOINT_CONFIG: join(folder, 'holdpoint.yaml'),
    HOLDPOINT_KEYS_DIR: join(folder, 'serve'),
    HOLDPOINT_JWKS: join(folder, 'jwks.json'),
    HOLDPOINT_CHECKPOINTS_DIR: join(folder, 'checkpoints'),
    HOLDPOINT_IDENTITIES: join(folder, 'identities.json'),
    PORT: '0',
    HOLDPOINT_TEMPORAL_WEB: 'http://127.0.0.1:8233/',
    HOLDPOINT_TASK_QUEUE: `nobody-${database.name}`,
  };
  const connection = await connect(inject('temporalEnvironment'));
  const temporal = new Client({ connection });
  const pools = {
    admin: createPool(database.adminUrl, { name: 'test' }),
    worker: createPool(database.workerUrl, { name: 'test' }),
    serve: createPool(database.serveUrl, { name: 'test' }),
  };
  const config = readServerConfig(environment);
  const test = {
    database,
    ...pools,
    temporal,
    config,
    folder,
    service: await startService(config, runsOnTemporal(temporal, config.taskQueue), quiet),
    async restart(change: Record<string, string> = {}) {
      await test.service.stop();
      test.config = readServerConfig({ ...environment, ...change });
      test.service = await startService(test.config, runsOnTemporal(temporal, config.taskQueue), quiet);
      connectPeople();
    },
    async close() {
      await test.service.stop();
      await connection.close();
      await Promise.all(Object.values(pools).map((pool) => pool.end()));
      await database.drop();
      await remove();
    },
  } as TestService;
  const person = (principal: string): Person => {
    const key = keys.get(principal) ?? '';
    return { principal, key, client: new HoldpointClient({ url: test.service.url, apiKey: key }) };
  };
  const connectPeople = (): void => {
    test.operator = person('olga');
    test.auditor = person('audrey');
    test.approvers = people.slice(2).map(person);
  };
  connectPeople();
  return test;
}

export interface MadeRequest {
  pending_id: string;
  run_id: string;
  first_execution_id: string;
  call_id: string;
  args_hash: string;
}

/** A request as the gateway leaves it, written by the worker's role; its run is one that Temporal does not know. */
export async function makeRequest(
  { worker, admin }: TestService,
  change: {
    args?: unknown;
    ttlMs?: number;
    quorum?: number;
    owner?: string;
    requester?: string;
    agent?: string;
    tool?: string;
    runId?: string;
    callId?: string;
  } = {},
): Promise<MadeRequest> {
  const tool = change.tool ?? 'email.send';
  const args = change.args ?? { to: 'a@example.org' };
  const hash = argsHash(tool, args);
  const runId = change.runId ?? newId('run');
  const made = { pending_id: newId('apr'), run_id: runId, first_execution_id: `exec-${runId}`, call_id: change.callId ?? '1.1', args_hash: hash };
  const who = { agent: change.agent ?? 'support', owner: change.owner ?? 'olga', requester: change.requester ?? 'rita' };
  const input = JSON.stringify({ agent: who.agent, requester: who.requester, planner: { type: 'script', calls: [] } });
  await admin.query(
    `INSERT INTO runs (run_id, start_request_id, first_execution_id, agent, owner, requester, input) VALUES ($1, gen_random_uuid(), $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING`,
    [runId, made.first_execution_id, who.agent, who.owner, who.requester, input],
  );
  // Never due for the sweeper: these runs exist in the ledger only.
  await admin.query(
    `INSERT INTO run_states (run_id, first_execution_id, registered, agent, owner, requester, input, checked_at) VALUES ($1, $2, true, $3, $4, $5, $6, 'infinity') ON CONFLICT DO NOTHING`,
    [runId, made.first_execution_id, who.agent, who.owner, who.requester, input],
  );
  await transaction(worker, async (client) => {
    const head = await lockHead(client, runId);
    const now = await ledgerNow(client);
    const expires = new Date(now.getTime() + (change.ttlMs ?? 300_000));
    await client.query('INSERT INTO arguments (args_hash, tool, canonical) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING', [hash, tool, canonical(args)]);
    await client.query(
      `INSERT INTO calls (run_id, first_execution_id, call_id, step, position, tool, kind, tool_hash, args_hash, status, pending_id)
      VALUES ($1, $2, $3, 1, $4, $5, 'write', 'sha256:t', $6, 'waiting', $7)`,
      [runId, made.first_execution_id, made.call_id, Number(made.call_id.split('.')[1]), tool, hash, made.pending_id],
    );
    await client.query(
      `INSERT INTO approval_requests (pending_id, run_id, first_execution_id, call_id, tool, kind, tool_hash, args_hash, preview, reason, rule, tier, policy_hash, agent, owner,
         requester, quorum, ttl_seconds, execute_within_seconds, created_at, expires_at, token_exp)
       VALUES ($1, $2, $3, $4, $5, 'write', 'sha256:t', $6, 'preview', 'asks', 'rule', 'default', 'sha256:p', $7, $8, $9, $10, 300, 86400, $11, $12, $13)`,
      [
        made.pending_id,
        runId,
        made.first_execution_id,
        made.call_id,
        tool,
        hash,
        who.agent,
        who.owner,
        who.requester,
        change.quorum ?? 1,
        now,
        expires,
        Math.ceil(expires.getTime() / 1000) + 86_400,
      ],
    );
    await appendAudit(
      client,
      head,
      auditFacts({
        event_key: `${made.first_execution_id}/${made.call_id}/approval_required/${made.pending_id}`,
        outcome: 'approval_required',
        ...who,
        tool,
        tool_hash: 'sha256:t',
        call_id: made.call_id,
        pending_id: made.pending_id,
        policy_hash: 'sha256:p',
        args_hash: hash,
      }),
      now,
    );
  });
  return made;
}

/** Appends plain events to a run's chain. */
export async function appendEvents({ worker }: TestService, runId: string, count: number, outcome: 'allow' | 'run_stopped' = 'allow'): Promise<void> {
  await transaction(worker, async (client) => {
    const head = await lockHead(client, runId);
    for (let index = 0; index < count; index += 1) {
      await appendAudit(client, head, auditFacts({ event_key: `made/${head.seq + 1}`, outcome, tool: 'search.read' }), await ledgerNow(client));
    }
  });
}
