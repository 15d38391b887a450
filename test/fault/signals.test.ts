import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { randomUUID } from 'node:crypto';
import { generateKeyPair, SignJWT } from 'jose';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { eventually } from '../support/index.ts';
import { Parts, pendingOf, SEND } from './parts.ts';

const exec = promisify(execFile);
let parts: Parts;
beforeAll(async () => {
  parts = await Parts.start({ config: 'approvals: { ttl_seconds: 25 }\n' });
});
afterAll(() => parts.close());

/** Temporal's own command line, as anybody with access to the namespace has it. */
async function signal(runId: string, name: string, ...input: string[]): Promise<void> {
  await exec(inject('temporalProgram'), ['workflow', 'signal', '--workflow-id', runId, '--name', name, ...input], {
    env: { PATH: process.env.PATH ?? '', HOME: '/nonexistent', ...parts.temporalEnvironment },
  });
}
const json = (value: unknown): string[] => ['--input', JSON.stringify(value)];

/** The command line refuses to send what is no JSON; the wire does not. */
async function rawSignal(runId: string, name: string, data: string): Promise<void> {
  const client = await parts.temporal();
  const payload = { metadata: { encoding: Buffer.from('json/plain') }, data: Buffer.from(data) };
  await client.workflowService.signalWorkflowExecution({
    namespace: 'default',
    workflowExecution: { workflowId: runId },
    signalName: name,
    input: { payloads: [payload] },
  });
}

async function foreignToken(pendingId: string, header: Record<string, unknown>): Promise<string> {
  const { privateKey } = await generateKeyPair('Ed25519');
  return new SignJWT({ pending_id: pendingId, outcome: 'approved', iss: 'holdpoint', aud: 'holdpoint-gateway', sub: 'alice' })
    .setProtectedHeader({ alg: 'Ed25519', typ: 'approval+jwt', kid: 'mine', ...header })
    .sign(privateKey);
}

test('whatever a namespace writer signals, the run stays alive, waiting and unexecuted; then the TTL fires', async () => {
  const run = await parts.run([SEND]);
  const pendingId = pendingOf(run);
  const other = await parts.run([SEND]);
  await parts.as('approver').decide(pendingOf(other), { outcome: 'approved' });
  await parts.stopped(other.run_id);
  const { rows } = await parts.admin.query<{ token: string }>('SELECT token FROM decisions WHERE pending_id = $1', [pendingOf(other)]);
  const otherToken = rows[0]?.token ?? '';
  const none = `${Buffer.from('{"alg":"none","typ":"approval+jwt"}').toString('base64url')}.${Buffer.from('{}').toString('base64url')}.`;

  for (const name of ['approval_granted', 'approval_denied']) {
    await signal(run.run_id, name);
    await signal(run.run_id, name, ...json(null));
    await signal(run.run_id, name, ...json(42));
    await signal(run.run_id, name, '--input', '"x"', '--input-meta', 'encoding=binary/unheard-of');
    await rawSignal(run.run_id, name, '{not json');
    await signal(run.run_id, name, ...json({ pending_id: 'apr_aaaaaaaaaaaaaaaaaaaaaaaaaa', token: otherToken }));
    await signal(run.run_id, name, ...json({ pending_id: pendingId, token: 'made.up.token' }));
    await signal(run.run_id, name, ...json({ pending_id: pendingId, token: none }));
    await signal(run.run_id, name, ...json({ pending_id: pendingId, token: await foreignToken(pendingId, {}) }));
    await signal(run.run_id, name, ...json({ pending_id: pendingId, token: otherToken }));
    await signal(run.run_id, name, ...json({ pending_id: pendingId }));
  }
  await signal(run.run_id, 'controls_changed');
  await signal(run.run_id, 'no_such_signal', ...json({}));

  const words = await eventually(async () => {
    const events = await parts.events(run.run_id);
    return events.filter((event) => event.startsWith('decision_rejected')).length >= 8 ? events : undefined;
  }, 'the attempts that name the request are recorded');
  expect(new Set(words.filter((event) => event.startsWith('decision_rejected')))).toEqual(
    new Set(['decision_rejected:malformed', 'decision_rejected:unknown_key', 'decision_rejected:other_run']),
  );
  expect(await parts.as('operator').getRun(run.run_id)).toMatchObject({ status: 'waiting', pending_id: pendingId });
  expect(await parts.effects(run.run_id)).toEqual([]);

  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'approval_timeout' });
  expect(await parts.effects(run.run_id)).toEqual([]);
});

test('after all of that a valid approval still executes, once', async () => {
  const run = await parts.run([SEND]);
  for (const input of [
    [],
    json(null),
    json(7),
    ['--input', '"x"', '--input-meta', 'encoding=binary/unheard-of'],
    json({ pending_id: pendingOf(run), token: 'x.y.z' }),
  ]) {
    await signal(run.run_id, 'approval_granted', ...input);
    await signal(run.run_id, 'approval_denied', ...input);
  }
  expect(await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' })).toMatchObject({ status: 'accepted' });
  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'completed' });
  expect(await parts.effects(run.run_id)).toHaveLength(1);
});

test('a denial that nobody signed denies nothing; a signed one ends the run', async () => {
  const run = await parts.run([SEND]);
  await signal(run.run_id, 'approval_denied', ...json({ pending_id: pendingOf(run), token: 'no.such.token' }));
  await eventually(async () => ((await parts.events(run.run_id)).includes('decision_rejected:malformed') ? true : undefined), 'the denial is rejected');
  expect((await parts.as('operator').getRun(run.run_id)).status).toBe('waiting');
  await parts.as('approver').decide(pendingOf(run), { outcome: 'denied', reason: 'wrong customer' });
  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'approval_denied', reason: expect.stringContaining('wrong customer') as string });
});

test('a workflow that was started past the API is unverified: its write asks and says so, and a person can still let it through', async () => {
  const client = await parts.temporal();
  const workflowId = `run_${randomUUID()}`;
  const input = { agent: 'support', requester: 'rita', planner: { type: 'script', calls: [SEND] } };
  await client.workflow.start('agentRun', { workflowId, taskQueue: parts.taskQueue, args: [input] });
  const request = await eventually(async () => (await parts.as('approver').listApprovals({ run: workflowId }))[0], 'the write asks');
  expect(request).toMatchObject({ agent: 'unverified', rule: 'unverified', owner: null });
  await parts.as('approver').decide(request.pending_id, { outcome: 'approved' });
  await client.workflow.getHandle(workflowId).result();
  expect(await parts.effects(workflowId)).toHaveLength(1);
});

test('a workflow with an input that cannot be read fails as invalid_run', async () => {
  const client = await parts.temporal();
  for (const input of [undefined, null, 'x', { agent: 3 }, { agent: 'a', requester: 'b\0', planner: { type: 'script', calls: [] } }]) {
    const handle = await client.workflow.start('agentRun', { workflowId: `run_${randomUUID()}`, taskQueue: parts.taskQueue, args: [input] });
    await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'invalid_run' } });
  }
});

test('a foreign workflow that calls the gateway with the real token of a run executes nothing', async () => {
  const run = await parts.run([SEND]);
  await parts.stop('worker');
  await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' });
  const { rows } = await parts.admin.query<{ token: string }>('SELECT token FROM decisions WHERE pending_id = $1', [pendingOf(run)]);
  // The run's own workflow is ended, and another one takes its id and claims its execution.
  const client = await parts.temporal();
  const handle = client.workflow.getHandle(run.run_id);
  const first = (await handle.describe()).runId;
  await handle.terminate('taken over');
  await parts.startWorker();
  const { foreignCall } = await import('./foreign.ts');
  for (const claimed of [first, randomUUID()]) {
    for (const args of [SEND.args, { ...SEND.args, to: 'eve@example.com' }]) {
      const call = { first_execution_id: claimed, call_id: '1.1', tool: 'email.send', args, mode: 'execute' as const, tokens: [rows[0]?.token ?? ''] };
      expect(await foreignCall(parts, run.run_id, call)).not.toMatchObject({ status: 'executed' });
    }
  }
  // Under its own execution it is an unregistered run: its write asks, and the token of the other chain counts for nothing.
  const own = await foreignCall(parts, run.run_id, {
    first_execution_id: 'own',
    call_id: '1.1',
    tool: 'email.send',
    args: SEND.args,
    mode: 'execute',
    tokens: [rows[0]?.token ?? ''],
  });
  expect(own).toMatchObject({ status: 'waiting', request: { rule: 'unverified' } });
  expect(await parts.effects(run.run_id)).toEqual([]);
});
