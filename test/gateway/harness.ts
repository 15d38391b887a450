/** The gateway on a real PostgreSQL with the real decision service, without Temporal: what it does to calls, exactly. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { z } from 'zod';
import { defineTool, type ToolDefinition } from '../../activities/define.ts';
import { createGateway, type Gateway, type RunKey } from '../../activities/gateway.ts';
import type { LoadedPolicy } from '../../activities/ports.ts';
import { createPool, type Pool } from '../../adapters/database.ts';
import { hashing } from '../../adapters/hashing.ts';
import { newId } from '../../adapters/ids.ts';
import { openSigningKeys } from '../../adapters/keys.ts';
import { createLedger } from '../../adapters/ledger.ts';
import { loadedPolicy } from '../../adapters/policy-file.ts';
import { createSigner, createVerifier } from '../../adapters/tokens.ts';
import { registerTools } from '../../adapters/tools.ts';
import { PolicyFile } from '../../core/contracts.ts';
import { isHoldpointError } from '../../core/errors.ts';
import type { CallResult } from '../../core/run-contract.ts';
import { decide } from '../../server/decisions.ts';
import type { ServerContext } from '../../server/ports.ts';
import { freshDatabase } from '../support/index.ts';

export interface Effect {
  tool: string;
  args: unknown;
  key: string;
  token: string | undefined;
}

export interface Harness {
  gateway: Gateway;
  admin: Pool;
  effects: Effect[];
  /** Changes the policy that gateway and decision service read from now on. */
  usePolicy(file: z.input<typeof PolicyFile>): void;
  /** Replaces a tool, as a new version of the worker would. */
  useTools(definitions: ToolDefinition[]): void;
  /** What the planner answers from now on. */
  usePlanner(plan: () => Promise<unknown>): void;
  /** A registered run, opened. */
  newRun(options?: { agent?: string; owner?: string; requester?: string; registered?: boolean }): Promise<RunKey>;
  call(run: RunKey, callId: string, tool: string, args: unknown, more?: { tokens?: string[]; mode?: 'execute' | 'evaluate' }): Promise<CallResult>;
  /** An approver decides through the decision service. Answers its status or the error's code, and the token. */
  decide(pendingId: string, outcome?: 'approved' | 'denied', approver?: string): Promise<{ status: string; token: string }>;
  events(run: RunKey): Promise<string[]>;
  close(): Promise<void>;
}

const mail = z.strictObject({ to: z.string(), body: z.string().default('hello') });

/** A write that may not be repeated, one that may, and a read; each can be told to misbehave. */
export function testTools(effects: Effect[], behave: { fail?: boolean; hang?: boolean } = {}): ToolDefinition[] {
  const act = async (tool: string, args: unknown, context: { idempotency_key: string; approval_token?: string }): Promise<unknown> => {
    if (behave.hang) await new Promise(() => {});
    effects.push({ tool, args, key: context.idempotency_key, token: context.approval_token });
    if (behave.fail) throw new Error('the mail server said no');
    return { sent: true };
  };
  return [
    defineTool({ name: 'email.send', input: mail, timeout_seconds: 0.3, execute: (args, context) => act('email.send', args, context) }),
    defineTool({ name: 'db.write', idempotent: true, input: mail, timeout_seconds: 0.3, execute: (args, context) => act('db.write', args, context) }),
    defineTool({ name: 'search.read', kind: 'read', input: z.strictObject({ q: z.string() }), execute: (args, context) => act('search.read', args, context) }),
  ];
}

export async function createHarness(): Promise<Harness> {
  const database = await freshDatabase();
  const folder = await mkdtemp(join(tmpdir(), 'holdpoint-keys-'));
  const keys = await openSigningKeys({ dir: join(folder, 'private'), jwksFile: join(folder, 'jwks.json') });
  const [admin, worker, serve] = [database.adminUrl, database.workerUrl, database.serveUrl].map((url) =>
    createPool(url, { name: 'test', max: 12, pipeline: true }),
  );
  if (!admin || !worker || !serve) throw new Error('no pools');
  await admin.query(
    `INSERT INTO approvers (principal, roles) VALUES ('alice', '{approver}'), ('bob', '{approver}'), ('olga', '{operator,approver}'), ('eve', '{operator}')`,
  );

  const effects: Effect[] = [];
  let loaded = policyOf({});
  let tools = registerTools(testTools(effects));
  let plan = async (): Promise<unknown> => ({ done: true });
  const policy = { current: () => loaded };
  const gateway = createGateway({
    ledger: createLedger(worker),
    tools: { get: (name) => tools.get(name), list: () => tools.list() },
    planners: { plan: () => plan() },
    policy,
    tokens: createVerifier(join(folder, 'jwks.json')),
    hashing,
    newId,
    searchAttributes: false,
  });
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  const runs: ServerContext['runs'] = { namespace: 'none', start: refuse, deliver: refuse, describe: refuse, cancel: refuse, notifyControls: refuse };
  const context: ServerContext = { pool: serve, keys, policy, runs, log, temporalWeb: undefined };
  const signer = createSigner(keys);

  return {
    gateway,
    admin,
    effects,
    usePolicy: (file) => {
      loaded = policyOf(file);
    },
    useTools: (definitions) => {
      tools = registerTools(definitions);
    },
    usePlanner: (next) => {
      plan = next;
    },
    async newRun({ agent = 'support', owner = 'olga', requester = 'rita', registered = true } = {}) {
      const key = { run_id: newId('run'), first_execution_id: newId('dec') };
      const input = { agent, requester, planner: { type: 'script', calls: [] } };
      if (registered) {
        const sql =
          'INSERT INTO runs (run_id, start_request_id, first_execution_id, agent, owner, requester, input) VALUES ($1, gen_random_uuid(), $2, $3, $4, $5, $6)';
        await admin.query(sql, [key.run_id, key.first_execution_id, agent, owner, requester, JSON.stringify(input)]);
      }
      await gateway.openRun(key, { input });
      return key;
    },
    call: (run, callId, tool, args, { tokens = [], mode = 'execute' } = {}) => gateway.callTool(run, { call_id: callId, tool, args, mode, tokens }),
    async decide(pendingId, outcome = 'approved', approver = 'alice') {
      const roles = (await admin.query<{ roles: string[] }>('SELECT roles FROM approvers WHERE principal = $1', [approver])).rows[0]?.roles ?? [];
      const status = await decide(context, signer, { principal: { principal: approver, roles }, pending_id: pendingId, outcome, reason: undefined }).then(
        ({ answer }) => answer.status,
        (error: unknown) => (isHoldpointError(error) ? error.code : String(error)),
      );
      const { rows } = await admin.query<{ token: string }>('SELECT token FROM decisions WHERE pending_id = $1 AND approver = $2', [pendingId, approver]);
      return { status, token: rows[0]?.token ?? '' };
    },
    async events(run) {
      const { rows } = await admin.query<{ outcome: string; reason: string | null; result: string | null }>(
        'SELECT outcome, reason, result FROM audit_events WHERE run_id = $1 ORDER BY seq',
        [run.run_id],
      );
      return rows.map((event) =>
        event.outcome === 'deny' || event.outcome === 'decision_rejected'
          ? `${event.outcome}:${event.reason}`
          : event.result === null
            ? event.outcome
            : `${event.outcome}:${event.result}`,
      );
    },
    async close() {
      await Promise.all([admin.end(), worker.end(), serve.end()]);
      await database.drop();
      await rm(folder, { recursive: true, force: true });
    },
  };
}

const refuse = (): Promise<never> => Promise.reject(new Error('the decision is delivered by the test'));

function policyOf(file: z.input<typeof PolicyFile>): LoadedPolicy {
  return loadedPolicy(PolicyFile.parse(file));
}
