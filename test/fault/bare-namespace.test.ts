import { join } from 'node:path';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { freePorts } from '../../cli/stack/ports.ts';
import { startTemporal, type TemporalServer } from '../../cli/stack/temporal.ts';
import { connect, plainEnvironment } from '../support/environment.ts';
import { temporaryFolder } from '../support/index.ts';
import { Parts, pendingOf, SEND } from './parts.ts';

const KEYWORD = 2;
const OURS = ['HoldpointStatus', 'HoldpointAgent', 'HoldpointStopReason'];

/** The embedded server on either switch: how many columns a namespace has for search attributes is its own. */
let server: TemporalServer;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  folder = await temporaryFolder();
  const [port = 0, webPort = 0] = await freePorts(2);
  server = await startTemporal({ program: inject('temporalProgram'), port, webPort, logFile: join(folder.path, 'temporal.log'), searchAttributes: false });
});
afterAll(async () => {
  server.process.kill('SIGKILL');
  await folder.remove();
});

async function attributes(add: string[] = []): Promise<string[]> {
  const connection = await connect(plainEnvironment(server.address));
  try {
    if (add.length > 0)
      await connection.operatorService.addSearchAttributes({ namespace: 'default', searchAttributes: Object.fromEntries(add.map((name) => [name, KEYWORD])) });
    const found = await connection.operatorService.listSearchAttributes({ namespace: 'default' });
    return Object.keys(found.customAttributes ?? {});
  } finally {
    await connection.close();
  }
}

async function approveOne(): Promise<{ parts: Parts; runId: string }> {
  const parts = await Parts.start({ temporal: plainEnvironment(server.address) });
  const run = await parts.run([SEND]);
  await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' });
  expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'completed' });
  expect(await parts.effects(run.run_id)).toHaveLength(1);
  return { parts, runId: run.run_id };
}

/** Names of the events of a whole history: the ledger knows of the end before the workflow has closed. */
async function history(parts: Parts, runId: string): Promise<string[]> {
  const handle = (await parts.temporal()).workflow.getHandle(runId);
  await handle.result();
  const { events } = await handle.fetchHistory();
  return (events ?? []).map((event) => Object.keys(event).find((key) => key.endsWith('EventAttributes')) ?? '?');
}

const PLANNER_STEP = 6;
const READ = { tool: 'search.read', args: { query: 'x' } };

/** Events of a whole run whose every request is approved. */
async function lengthOf(parts: Parts, calls: { tool: string; args: unknown }[]): Promise<number> {
  let run = await parts.run(calls);
  while (run.status !== 'stopped') {
    if (run.pending_id !== null) await parts.as('approver').decide(run.pending_id, { outcome: 'approved' });
    run = await parts.as('operator').getRun(run.run_id, { wait: 5, until: 'settled' });
  }
  expect(run.stop_reason).toBe('completed');
  return (await history(parts, run.run_id)).length;
}

test('a namespace that has no room for our search attributes: runs work without them', async () => {
  // This server has ten columns for keywords: with all of them taken the worker's registration is refused.
  const free = 10 - (await attributes()).length;
  await attributes(Array.from({ length: free }, (_, index) => `Theirs${index}`));
  const { parts, runId } = await approveOne();
  try {
    expect((await attributes()).filter((name) => OURS.includes(name))).toEqual([]);
    expect(await history(parts, runId)).not.toContain('upsertWorkflowSearchAttributesEventAttributes');
  } finally {
    await parts.close();
  }
});

test('a namespace without our search attributes: the worker registers them, and runs set them', async () => {
  const connection = await connect(plainEnvironment(server.address));
  await connection.operatorService.removeSearchAttributes({ namespace: 'default', searchAttributes: ['Theirs0', 'Theirs1', 'Theirs2', 'Theirs3'] });
  await connection.close();
  const { parts, runId } = await approveOne();
  try {
    expect(await attributes()).toEqual(expect.arrayContaining(OURS));
    expect(await history(parts, runId)).toContain('upsertWorkflowSearchAttributesEventAttributes');

    // What one more call adds, less its planner step of 6 events: search attributes included.
    const gated = await lengthOf(parts, [SEND, SEND]);
    const one = await lengthOf(parts, [SEND]);
    expect(gated - one - PLANNER_STEP).toBeLessThanOrEqual(20);
    expect((await lengthOf(parts, [READ, READ])) - (await lengthOf(parts, [READ])) - PLANNER_STEP).toBeLessThanOrEqual(6);
  } finally {
    await parts.close();
  }
});
