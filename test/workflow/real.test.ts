/** The whole way with nothing scripted: API, decision service, ledger, Temporal, workflow, gateway, tools. */
import { createHash, randomBytes, randomUUID } from 'node:crypto';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import pg from 'pg';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import { z } from 'zod';
import { defineTool } from '../../activities/define.ts';
import { connectTemporal, type TemporalClient } from '../../client/temporal.ts';
import type { RunView } from '../../client/types.ts';
import { runsOnTemporal } from '../../server/temporal-runs.ts';
import { startService, type Service } from '../../server/service.ts';
import { readServerConfig } from '../../server/config.ts';
import { createWorker, type HoldpointWorker, readWorkerConfig } from '../../worker/index.ts';
import { eventually, freshDatabase, temporaryFolder, type TestDatabase } from '../support/index.ts';

const newKey = (): string => `hp_${randomBytes(32).toString('base64url')}`;
const keys = { operator: newKey(), approver: newKey() };
const POLICY = `
approvals: { required_for: [email.send, db.write], ttl_seconds: 300 }
policy: { tool_blocklist: [admin.*] }
`;

let database: TestDatabase;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let temporal: TemporalClient;
let service: Service;
let worker: HoldpointWorker;
let working: Promise<void>;
let admin: pg.Client;
const effects: { tool: string; args: unknown; key: string }[] = [];

const act = (name: string, kind: 'read' | 'write') =>
  defineTool({
    name,
    kind,
    idempotent: true,
    input: z.strictObject({ note: z.string() }),
    execute: async (args, context) => {
      effects.push({ tool: name, args, key: context.idempotency_key });
      return { done: true };
    },
  });

beforeAll(async () => {
  Object.assign(process.env, inject('temporalEnvironment'));
  [database, folder, temporal] = await Promise.all([freshDatabase(), temporaryFolder('holdpoint-real-'), connectTemporal()]);
  const at = (name: string): string => join(folder.path, name);
  await writeFile(at('holdpoint.yaml'), POLICY);
  const identity = (principal: string, role: string, key: string) => ({ principal, roles: [role], key_sha256: createHash('sha256').update(key).digest('hex') });
  await writeFile(
    at('identities.json'),
    JSON.stringify({ identities: [identity('olga', 'operator', keys.operator), identity('alice', 'approver', keys.approver)] }),
  );
  const taskQueue = `real-${randomUUID()}`;
  const common = { HOLDPOINT_TASK_QUEUE: taskQueue, HOLDPOINT_CONFIG: at('holdpoint.yaml'), HOLDPOINT_JWKS: at('jwks.json') };
  const serve = readServerConfig({
    ...common,
    DATABASE_URL: database.serveUrl,
    HOLDPOINT_KEYS_DIR: at('keys'),
    HOLDPOINT_CHECKPOINTS_DIR: at('checkpoints'),
    HOLDPOINT_IDENTITIES: at('identities.json'),
    PORT: '0',
  });
  const log = { debug() {}, info() {}, warn() {}, error() {} };
  service = await startService(serve, runsOnTemporal(temporal, taskQueue), log);
  worker = await createWorker({
    config: readWorkerConfig({ ...common, DATABASE_URL: database.workerUrl }),
    tools: [act('email.send', 'write'), act('db.write', 'write'), act('search.read', 'read'), act('admin.drop', 'write')],
    planners: {
      broken: {
        plan: async () => {
          throw new Error('no idea');
        },
      },
    },
  });
  working = worker.run();
  admin = new pg.Client({ connectionString: database.adminUrl });
  await admin.connect();
});
afterAll(async () => {
  worker?.shutdown();
  await working;
  await service?.stop();
  await temporal?.connection.close();
  await admin?.end();
  await database?.drop();
  await folder?.remove();
});

async function api<T>(who: keyof typeof keys, path: string, body?: unknown): Promise<T> {
  const response = await fetch(`${service.url}${path}`, {
    method: body === undefined ? 'GET' : 'POST',
    headers: { authorization: `Bearer ${keys[who]}`, 'content-type': 'application/json' },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const answer = (await response.json()) as T;
  if (!response.ok) throw Object.assign(new Error(JSON.stringify(answer)), { answer });
  return answer;
}
const start = (calls: string[], more: object = {}): Promise<RunView> =>
  api<RunView>('operator', '/v1/runs?wait=20', {
    agent: 'bot',
    requester: 'rita',
    planner: { type: 'script', calls: calls.map((tool) => ({ tool, args: { note: tool } })) },
    ...more,
  });
const stoppedRun = (id: string): Promise<RunView> => api<RunView>('operator', `/v1/runs/${id}?wait=30&until=stopped`);
const decide = (pendingId: string | null, outcome: 'approved' | 'denied'): Promise<{ status: string }> =>
  api('approver', `/v1/approvals/${pendingId}/decision`, { outcome });
const effectsOf = (runId: string) => effects.filter((effect) => effect.key.startsWith(runId)).map((effect) => effect.tool);
const events = async (runId: string): Promise<string[]> =>
  (await admin.query<{ outcome: string }>('SELECT outcome FROM audit_events WHERE run_id = $1 ORDER BY seq', [runId])).rows.map((row) => row.outcome);

describe('a run started through the API', () => {
  test('waits, is approved, executes once and is recorded', async () => {
    const run = await start(['search.read', 'email.send']);
    expect(run).toMatchObject({ status: 'waiting', stop_reason: 'approval_required' });
    expect(effectsOf(run.run_id)).toEqual(['search.read']);
    expect(await decide(run.pending_id, 'approved')).toMatchObject({ status: 'accepted' });
    expect(await stoppedRun(run.run_id)).toMatchObject({ stop_reason: 'completed' });
    expect(effectsOf(run.run_id)).toEqual(['search.read', 'email.send']);
    expect(await events(run.run_id)).toEqual(['run_started', 'allow', 'approval_required', 'approval_granted', 'execution_started', 'allow', 'run_stopped']);
  });

  test('is denied and executes nothing', async () => {
    const run = await start(['db.write']);
    await decide(run.pending_id, 'denied');
    expect(await stoppedRun(run.run_id)).toMatchObject({ stop_reason: 'approval_denied' });
    expect(effectsOf(run.run_id)).toEqual([]);
  });

  test('times out when nobody answers', async () => {
    const run = await start(['db.write'], { ttl_seconds: 1 });
    expect(await stoppedRun(run.run_id)).toMatchObject({ stop_reason: 'approval_timeout' });
    expect(effectsOf(run.run_id)).toEqual([]);
    expect(await events(run.run_id)).toEqual(['run_started', 'approval_required', 'approval_timeout', 'run_stopped']);
  });

  test('stops at a call outside its scope', async () => {
    expect(await start(['admin.drop'])).toMatchObject({ status: 'stopped', stop_reason: 'policy_denied' });
  });

  test('is cancelled while it waits, and its request is closed', async () => {
    const run = await start(['email.send']);
    await api('operator', `/v1/runs/${run.run_id}/cancel`, {});
    expect(await stoppedRun(run.run_id)).toMatchObject({ stop_reason: 'cancelled' });
    expect(await events(run.run_id)).toContain('approval_cancelled');
    await expect(decide(run.pending_id, 'approved')).rejects.toThrow(/request_closed|conflict/);
  });

  test('is stopped by the kill switch while it waits', async () => {
    const run = await start(['email.send'], { agent: 'doomed' });
    await api('operator', '/v1/controls', { engaged: true, agent: 'doomed' });
    expect(await stoppedRun(run.run_id)).toMatchObject({ stop_reason: 'kill_switch' });
    expect(effectsOf(run.run_id)).toEqual([]);
  });

  test('ends as planner_failed with three calls of tools that are not there, and with a planner that throws', async () => {
    expect(await start(['no.such', 'no.such', 'no.such', 'search.read'])).toMatchObject({ stop_reason: 'planner_failed' });
    const broken = await api<RunView>('operator', '/v1/runs?wait=30', { agent: 'bot', requester: 'rita', planner: { type: 'module', name: 'broken' } });
    expect(broken).toMatchObject({ stop_reason: 'planner_failed' });
  });

  test('is not moved by junk that names its request, and is still approved after it', async () => {
    const run = await start(['email.send']);
    const handle = temporal.workflow.getHandle(run.run_id);
    for (const token of [null, 7, 'made.up.token', 'eyJhbGciOiJub25lIn0.e30.']) {
      await handle.signal<unknown[]>('approval_granted', { pending_id: run.pending_id, token });
      await handle.signal<unknown[]>('approval_denied', { pending_id: run.pending_id, token });
    }
    await eventually(
      async () => ((await events(run.run_id)).filter((outcome) => outcome === 'decision_rejected').length >= 4 ? true : undefined),
      'the junk is on record',
    );
    expect(await api<RunView>('operator', `/v1/runs/${run.run_id}`)).toMatchObject({ status: 'waiting' });
    await decide(run.pending_id, 'approved');
    expect(await stoppedRun(run.run_id)).toMatchObject({ stop_reason: 'completed' });
    expect(effectsOf(run.run_id)).toEqual(['email.send']);
  });
});

test('a workflow that nobody registered asks for every write as the agent unverified', async () => {
  const workflowId = `run_${randomUUID()}`;
  const input = { agent: 'bot', requester: 'rita', planner: { type: 'script', calls: [{ tool: 'email.send', args: { note: 'x' } }] } };
  const { taskQueue } = await temporal.workflow.getHandle((await start(['search.read'])).run_id).describe();
  const handle = await temporal.workflow.start('agentRun', { workflowId, taskQueue, args: [input] });
  const state = await eventually(async () => {
    const now = await handle.query<{ status: string; pending: { pending_id: string }[] }>('state');
    return now.status === 'waiting' ? now : undefined;
  }, 'it waits');
  const { rows } = await admin.query<{ agent: string }>('SELECT agent FROM approval_requests WHERE pending_id = $1', [state.pending[0]?.pending_id]);
  expect(rows).toEqual([{ agent: 'unverified' }]);
  await handle.terminate();
});
