import { join } from 'node:path';
import { afterEach, beforeEach, expect, inject, test } from 'vitest';
import { isRunning } from '../../cli/stack/processes.ts';
import type { RunView } from '../../client/types.ts';
import { eventually, temporaryFolder } from '../support/index.ts';
import { startOwnServer, type OwnServer } from '../support/own-server.ts';
import { effects, emailRun, holdpoint, holdpointJson, interruptedUp, killEverything, removeState, stackFile, startUp, stopUp, type Up } from './cli.ts';

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let stateDir: string;
let ups: Up[];
let server: OwnServer | undefined;
beforeEach(async () => {
  folder = await temporaryFolder();
  stateDir = join(folder.path, 'state');
  ups = [];
});
afterEach(async () => {
  for (const up of ups) await stopUp(up);
  await server?.stop();
  server = undefined;
  await removeState(stateDir);
  await folder.remove();
});

async function start(env: Record<string, string> = {}): Promise<Up> {
  const up = await startUp(stateDir, [], { env });
  ups.push(up);
  return up;
}

async function waitingMail(): Promise<RunView> {
  const { data } = await holdpointJson<RunView>(['run', '-'], { stateDir, input: emailRun() });
  expect(data.status).toBe('waiting');
  return data;
}

async function approveAndEnd(run: RunView): Promise<RunView> {
  expect((await holdpoint(['approve', run.pending_id!], { stateDir })).code).toBe(0);
  return await eventually(async () => {
    const { data } = await holdpointJson<RunView>(['show', run.run_id], { stateDir });
    return data.status === 'stopped' ? data : undefined;
  }, 'the run ends');
}

test('a run that waits survives kill -9 of every process and has exactly one effect after its approval', async () => {
  // The embedded server is a process of the stack. A full one is not: it has to be killed beside it.
  if (inject('temporalServer') === 'full') server = await startOwnServer(join(folder.path, 'temporal'));
  const first = await start(server?.environment);
  const run = await waitingMail();
  await Promise.all([killEverything(first, stateDir), server?.kill()]);
  await server?.restart();
  await start(server?.environment);
  expect((await approveAndEnd(run)).stop_reason).toBe('completed');
  expect((await effects(stateDir)).map((effect) => effect.run_id)).toEqual([run.run_id]);
}, 120_000);

test('what a killed up left running is stopped by the next one, which goes on with the same state', async () => {
  const first = await start();
  const run = await waitingMail();
  const orphans = (await stackFile(stateDir)).parts;
  first.child.kill('SIGKILL');
  await eventually(() => (first.child.signalCode === null ? undefined : true), 'up is gone');
  await start();
  expect(orphans.filter(isRunning)).toEqual([]);
  expect((await approveAndEnd(run)).stop_reason).toBe('completed');
}, 120_000);

test('a worker that is killed comes back and the run goes on', async () => {
  const up = await start();
  const run = await waitingMail();
  const worker = (await stackFile(stateDir)).parts.find((part) => part.name === 'worker')!;
  process.kill(worker.pid, 'SIGKILL');
  await eventually(() => (up.stderr().includes('worker is back') ? true : undefined), 'up says that the worker is back');
  expect((await approveAndEnd(run)).stop_reason).toBe('completed');
}, 120_000);

test('Ctrl-C ends up with 0 and leaves no process', async () => {
  const up = await start();
  const { parts } = await stackFile(stateDir);
  expect(parts.map((part) => part.name).sort()).toEqual(['PostgreSQL', ...(inject('temporalServer') === 'embedded' ? ['Temporal'] : []), 'serve', 'worker']);
  expect(await stopUp(up)).toBe(0);
  expect(parts.filter(isRunning)).toEqual([]);
}, 120_000);

test('demo without a running stack starts its own, passes, and leaves no process', async () => {
  const answer = await holdpoint(['demo', '--temporal-port', '0', '--web-port', '0', '--api-port', '0'], { stateDir });
  expect(answer.code, answer.stderr + answer.stdout).toBe(0);
  expect((await effects(stateDir)).map((effect) => effect.tool)).toEqual(['email.send']);
  await expect(stackFile(stateDir)).rejects.toThrow();
}, 120_000);

test('a signal while it still starts ends up and leaves no process and no half-made state', async () => {
  for (const afterMs of [100, 700, 1_500, 3_000]) {
    const answer = await interruptedUp(stateDir, afterMs);
    expect(answer.running).toEqual([]);
  }
  await start();
  expect((await waitingMail()).pending_id).toMatch(/^apr_/);
}, 120_000);
