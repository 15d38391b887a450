import { readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, inject, test } from 'vitest';
import type { ApprovalView, AuditPage, AuditReport, DecisionAnswer, RunView } from '../../client/types.ts';
import { eventually, temporaryFolder } from '../support/index.ts';
import { effects, emailRun, holdpoint, holdpointJson, removeState, script, stackFile, startUp, stopUp, type Up } from './cli.ts';

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let stateDir: string;
let up: Up;
beforeAll(async () => {
  // Made by mkdtemp: as root nobody else can reach it.
  folder = await temporaryFolder();
  stateDir = join(folder.path, 'state');
  up = await startUp(stateDir);
}, 120_000);
afterAll(async () => {
  if (up !== undefined) await stopUp(up);
  await removeState(stateDir);
  await folder.remove();
});

const json = <T = Record<string, unknown>>(args: string[], input?: string) => holdpointJson<T>(args, { stateDir, ...(input === undefined ? {} : { input }) });
const text = (args: string[], input?: string) => holdpoint(args, { stateDir, ...(input === undefined ? {} : { input }) });

async function waitingMail(): Promise<RunView> {
  const { code, data } = await json<RunView>(['run', '-'], emailRun());
  expect({ code, status: data.status, stop_reason: data.stop_reason }).toEqual({ code: 0, status: 'waiting', stop_reason: 'approval_required' });
  return data;
}

describe('up', () => {
  test('prints one line with the addresses when everything is ready', () => {
    expect(up.stdout().trimEnd().split('\n')).toHaveLength(1);
    expect(Object.keys(up.addresses).sort()).toEqual(['api_url', 'database_url', 'state_dir', 'temporal_address', 'temporal_web']);
    if (inject('temporalServer') === 'full')
      expect(up.addresses).toMatchObject({ temporal_address: inject('temporalEnvironment').TEMPORAL_ADDRESS, temporal_web: null });
    expect(up.addresses.database_url).toMatch(/^postgres:\/\/postgres:/);
    expect(up.addresses.state_dir).toBe(stateDir);
  });

  test('is ready in under 20 seconds with the Temporal program at hand', () => {
    expect(up.seconds).toBeLessThan(20);
  });

  test('a second one in the same state directory says who runs there and stops', async () => {
    const answer = await text(['up', '--temporal-port', '0', '--web-port', '0', '--api-port', '0']);
    expect(answer.code).toBe(1);
    expect(answer.stderr).toContain(`pid ${up.child.pid}`);
    expect(answer.stderr).toContain(up.addresses.api_url);
    expect((await holdpoint(['pending'], { stateDir })).code).toBe(0);
  });

  // A server that is given needs no port.
  const flags = inject('temporalServer') === 'embedded' ? ['--temporal-port', '--web-port', '--api-port'] : ['--api-port'];
  test.each(flags)('a port that is taken is named together with the flag %s, and nothing is left behind', async (flag) => {
    const server = createServer().listen(0, '127.0.0.1');
    await once(server, 'listening');
    const { port } = server.address() as { port: number };
    const other = join(folder.path, 'taken');
    const ports = Object.entries({ '--temporal-port': '0', '--web-port': '0', '--api-port': '0', [flag]: String(port) });
    const answer = await holdpoint(['up', ...ports.flat()], { stateDir: other });
    server.close();
    expect(answer.code).toBe(1);
    expect(answer.stderr).toMatch(new RegExp(`port ${port}.*${flag}`, 's'));
    await expect(stackFile(other)).rejects.toThrow();
    await removeState(other);
  });

  test('a configuration that cannot be used ends it with 2, the place and no state', async () => {
    const file = join(folder.path, 'bad.yaml');
    await writeFile(file, 'version: 1\napprovals:\n  ttl_secs: 3\n');
    const other = join(folder.path, 'never');
    const answer = await holdpoint(['up', '--config', file], { stateDir: other });
    expect(answer.code).toBe(2);
    expect(answer.stderr).toMatch(/bad\.yaml:3:3: /);
    await expect(stat(other)).rejects.toThrow();
  });

  test('keys and addresses are readable by the local user alone', async () => {
    for (const file of ['stack.json', 'identities.json', 'keys/operator.key', 'keys/approver.key'])
      expect((await stat(join(stateDir, file))).mode & 0o077).toBe(0);
    expect((await stat(stateDir)).mode & 0o077).toBe(0);
  });

  test('the environment of the worker names no signing key, no superuser and no API key', async () => {
    const worker = (await stackFile(stateDir)).parts.find((part) => part.name === 'worker')!;
    const environ = await readFile(`/proc/${worker.pid}/environ`, 'utf8');
    expect(environ).toContain('holdpoint_worker');
    expect(environ).not.toContain('HOLDPOINT_KEYS_DIR');
    expect(environ).not.toContain('HOLDPOINT_API_KEY');
    expect(environ).not.toContain(join(stateDir, 'serve'));
    expect(environ).not.toContain(new URL(up.addresses.database_url).password);
    expect(environ).not.toMatch(/hp_[\w-]{43}/);
  });
});

describe('a run', () => {
  test('waits, is approved, executes once, and its end is told', async () => {
    const run = await waitingMail();
    const listed = await json<{ approvals: ApprovalView[] }>(['pending']);
    expect(listed.data.approvals.map((request) => request.pending_id)).toContain(run.pending_id);
    const shown = await text(['show', run.pending_id!]);
    expect(shown.stdout).toContain('ada@example.com');
    const approved = await json<DecisionAnswer>(['approve', run.pending_id!, '--reason', 'fine']);
    expect(approved).toMatchObject({ code: 0, data: { status: 'accepted', decision: { approver: 'local-approver', outcome: 'approved' } } });
    await eventually(async () => ((await json<RunView>(['show', run.run_id])).data.stop_reason === 'completed' ? true : undefined), 'the run ends');
    const again = await json<DecisionAnswer>(['approve', run.pending_id!]);
    expect(again).toMatchObject({ code: 0, data: { status: 'already_decided' } });
    expect((await text(['deny', run.pending_id!])).code).toBe(1);
    const { data } = await json<AuditPage>(['audit', 'list', '--run', run.run_id]);
    expect(data.events.map((event) => event.outcome)).toEqual([
      'run_started',
      'approval_required',
      'approval_granted',
      'execution_started',
      'allow',
      'run_stopped',
    ]);
    expect((await effects(stateDir)).filter((effect) => effect.run_id === run.run_id)).toHaveLength(1);
  });

  test('that is denied ends with 3', async () => {
    const waiting = await waitingMail();
    expect((await json(['deny', waiting.pending_id!, '--reason', 'no'])).code).toBe(0);
    await eventually(async () => ((await json<RunView>(['show', waiting.run_id])).data.stop_reason === 'approval_denied' ? true : undefined), 'the run ends');
    expect((await effects(stateDir)).filter((effect) => effect.run_id === waiting.run_id)).toEqual([]);
  });

  test('that writes to the database and is approved leaves one row, which a read finds without asking', async () => {
    const { data: waiting } = await json<RunView>(['run', '-'], script('db.write', { key: 'e2e/found', value: { n: 1 } }));
    expect((await text(['approve', waiting.pending_id!])).code).toBe(0);
    const ended = await eventually(async () => {
      const { data } = await json<RunView>(['show', waiting.run_id]);
      return data.status === 'stopped' ? data : undefined;
    }, 'the write ends');
    expect(ended.stop_reason).toBe('completed');
    const read = await json<RunView>(['run', '-', '--wait'], script('search.read', { query: 'e2e/found' }));
    expect(read).toMatchObject({ code: 0, data: { stop_reason: 'completed', calls: [{ status: 'executed', result: 'ok' }] } });
  });

  test('that nobody answers ends with 6 after its TTL', async () => {
    const { code, data } = await json<RunView>(['run', '-', '--wait'], script('db.write', { key: 'e2e', value: 1 }, { ttl_seconds: 1 }));
    expect({ code, stop_reason: data.stop_reason }).toEqual({ code: 6, stop_reason: 'approval_timeout' });
  });

  test('outside the allowed scope ends with 3 and asks nobody', async () => {
    const { code, data } = await json<RunView>(['run', '-', '--wait'], script('crm.delete_contact', { contact_id: 'C-1' }));
    expect({ code, stop_reason: data.stop_reason, pending: data.pending }).toEqual({ code: 3, stop_reason: 'policy_denied', pending: [] });
  });

  test('that is cancelled closes its request and ends with 9', async () => {
    const following = holdpointJson<RunView>(['run', '-', '--wait'], { stateDir, input: emailRun({ agent: 'to-cancel' }) });
    let mine: ApprovalView | undefined;
    while (mine === undefined) mine = (await json<{ approvals: ApprovalView[] }>(['pending'])).data.approvals.find((request) => request.agent === 'to-cancel');
    expect((await text(['cancel', mine.run_id])).code).toBe(0);
    expect(await following).toMatchObject({ code: 9, data: { stop_reason: 'cancelled' } });
    expect((await json<ApprovalView>(['show', mine.pending_id])).data.status).toBe('cancelled');
  });

  test('that has not ended in time ends the command with 124 and goes on', async () => {
    const { code, data } = await json<RunView>(['run', '-', '--wait', '--timeout', '1'], emailRun());
    expect(code).toBe(124);
    expect((await json<RunView>(['show', data.run_id])).data.status).toBe('waiting');
  });

  test('is stopped with 8 while the kill switch is on', async () => {
    expect((await text(['kill', 'on', '--agent', 'killed-agent', '--reason', 'drill'])).code).toBe(0);
    expect((await text(['kill', 'status'])).stdout).toContain('agent:killed-agent');
    const { code, data } = await json<RunView>(['run', '-', '--wait'], emailRun({ agent: 'killed-agent' }));
    expect({ code, stop_reason: data.stop_reason }).toEqual({ code: 8, stop_reason: 'kill_switch' });
    expect((await text(['kill', 'off', '--agent', 'killed-agent'])).code).toBe(0);
  });
});

describe('bad input', () => {
  test.each([
    ['JSON that breaks off', '{"agent": "a",', /<stdin>:\d+:\d+: /],
    ['an unknown key', 'agent: a\nrequester: b\nplanner: {type: script, calls: []}\nttl: 5\n', /<stdin>:4:1: /],
    ['a wrong type deep inside', 'agent: a\nrequester: b\nplanner:\n  type: script\n  calls:\n    - tool: 5\n', /<stdin>:6:\d+: /],
    ['a hostile key', '{"agent":"a","requester":"b","planner":{"type":"script","calls":[]},"__proto__":{"x":1}}', /<stdin>:1:\d+: /],
    ['nothing at all', '', /<stdin>/],
  ])('%s in a run file ends with 2 and names the place', async (_what, input, place) => {
    const answer = await text(['run', '-'], input);
    expect(answer.code).toBe(2);
    expect(answer.stderr).toMatch(place);
    expect(answer.stdout).toBe('');
  });

  test('a run file that does not exist ends with 2 and names it', async () => {
    const answer = await text(['run', 'nowhere.yaml']);
    expect(answer).toMatchObject({ code: 2, stdout: '' });
    expect(answer.stderr).toContain('nowhere.yaml');
  });

  test('an id that nothing has ends with 5', async () => {
    expect((await text(['show', `run_${'a'.repeat(26)}`])).code).toBe(5);
    expect((await text(['approve', `apr_${'a'.repeat(26)}`])).code).toBe(5);
  });

  test.each([
    [['show', 'x']],
    [['frobnicate']],
    [['run']],
    [['pending', '--nope']],
    [['kill', 'maybe']],
    [['up', '--api-port', '99999']],
    [['audit', 'list', '--since', 'yesterday']],
  ])('holdpoint %j is a usage error', async (args) => {
    const answer = await text(args);
    expect(answer.code).toBe(2);
    expect(answer.stderr).not.toBe('');
  });

  test('a wrong API key ends with 4, the approver cannot start runs', async () => {
    const env = { HOLDPOINT_URL: up.addresses.api_url, HOLDPOINT_API_KEY: `hp_${'x'.repeat(43)}` };
    expect((await holdpoint(['pending'], { env })).code).toBe(4);
    const approver = (await readFile(join(stateDir, 'keys', 'approver.key'), 'utf8')).trim();
    expect((await holdpoint(['run', '-'], { env: { ...env, HOLDPOINT_API_KEY: approver }, input: emailRun() })).code).toBe(4);
  });

  test('no stack ends with 7, the directory and the next command', async () => {
    const answer = await holdpoint(['pending'], { stateDir: join(folder.path, 'empty') });
    expect(answer.code).toBe(7);
    expect(answer.stderr).toMatch(/empty[\s\S]*npx holdpoint up/);
  });

  test('a server that does not answer ends with 7 and its address', async () => {
    const answer = await holdpoint(['pending'], { env: { HOLDPOINT_URL: 'http://127.0.0.1:1', HOLDPOINT_API_KEY: 'hp_x' } });
    expect(answer.code).toBe(7);
    expect(answer.stderr).toContain('http://127.0.0.1:1');
  });
});

describe('the other commands', () => {
  test('audit verify finds the trail sound, also offline from an export', async () => {
    expect(await json<AuditReport>(['audit', 'verify'])).toMatchObject({ code: 0, data: { ok: true, findings: [] } });
    const file = join(folder.path, 'export.ndjson');
    expect((await text(['audit', 'export', '--out', file])).code).toBe(0);
    const checked = await json<AuditReport>(['audit', 'verify', '--export', file, '--jwks', join(stateDir, 'jwks.json')]);
    expect(checked).toMatchObject({ code: 0, data: { ok: true } });
    expect(checked.data.events).toBeGreaterThan(5);
  });

  test('an export with one changed word does not verify', async () => {
    const { stdout } = await text(['audit', 'export']);
    const file = join(folder.path, 'changed.ndjson');
    await writeFile(file, stdout.replace('"outcome":"approval_granted"', '"outcome":"approval_denied"'));
    expect(await json<AuditReport>(['audit', 'verify', '--export', file])).toMatchObject({ code: 1, data: { ok: false } });
  });

  test('demo on the running stack ends as it must, with one mail and no database write of its own', async () => {
    const before = (await effects(stateDir)).length;
    const { code, data } = await json<{ ok: boolean; scenarios: { stop_reason: string }[] }>(['demo']);
    expect({ code, ok: data.ok, reasons: data.scenarios.map((scenario) => scenario.stop_reason) }).toEqual({
      code: 0,
      ok: true,
      reasons: ['completed', 'approval_timeout', 'policy_denied'],
    });
    expect((await effects(stateDir)).slice(before).map((effect) => effect.tool)).toEqual(['email.send']);
  });

  test('doctor finds everything in place', async () => {
    const { code, data } = await json<{ ok: boolean; checks: { part: string; status: string }[] }>(['doctor']);
    expect(code).toBe(0);
    expect(data.checks.filter((check) => check.status !== 'ok' && check.part !== 'old database')).toEqual([]);
    expect(data.checks.map((check) => check.part)).toEqual(expect.arrayContaining(['API', 'search attributes', 'PostgreSQL']));
  });

  test('policy check accepts the shipped file and points at the mistake in another', async () => {
    expect((await holdpoint(['policy', 'check'], { cwd: folder.path })).code).toBe(0);
    const file = join(folder.path, 'twice.yaml');
    await writeFile(file, 'version: 1\nversion: 1\n');
    const answer = await holdpoint(['policy', 'check', file]);
    expect(answer.code).toBe(2);
    expect(answer.stderr).toMatch(/twice\.yaml:2:1: /);
  });

  test('--help and --version answer with 0 on stdout', async () => {
    const help = await holdpoint(['--help']);
    expect(help.code).toBe(0);
    for (const name of ['up', 'demo', 'run', 'pending', 'show', 'approve', 'deny', 'cancel', 'kill', 'audit', 'policy', 'migrate', 'worker', 'serve', 'doctor'])
      expect(help.stdout).toMatch(new RegExp(`^  ${name}\\b`, 'm'));
    expect((await holdpoint(['--version'])).stdout).toMatch(/^\d+\.\d+\.\d+\n$/);
  });
});
