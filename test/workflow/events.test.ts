import { afterAll, beforeAll, expect, test } from 'vitest';
import { eventually } from '../support/index.ts';
import { call, executed, gated, startHarness, type Harness, type ScriptedRun } from './harness.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.stop());

const PLANNER_STEP = 6;

/** Events between the start of the first call and the end of the run's last planner step, planner steps left out. */
async function eventsOfCalls(run: ScriptedRun, steps: number): Promise<number> {
  const history = await run.handle.fetchHistory();
  const events = history.events ?? [];
  const scheduled = (type: string) =>
    events.filter((event) => event.activityTaskScheduledEventAttributes?.activityType?.name === type).map((event) => Number(event.eventId));
  const [first = 0] = scheduled('callTool');
  const last = scheduled('planNextStep').at(-1) ?? 0;
  // From one schedule to the next is the cost of what is between; each step but the last has a planner step of its own.
  return last - first - (steps - 1) * PLANNER_STEP;
}

test('an allowed call costs at most 6 events', async () => {
  const run = await harness.start({ steps: [[call('a')], [call('b')], [call('c')]], call: executed, searchAttributes: true });
  await run.result();
  expect(await eventsOfCalls(run, 3)).toBeLessThanOrEqual(3 * 6);
});

test('a gated call costs at most 18 events, 20 with search attributes', async () => {
  for (const searchAttributes of [false, true]) {
    const run = await harness.start({ steps: [[call('a')], [call('b')]], call: gated(), searchAttributes });
    for (const id of ['apr_1_1', 'apr_2_1']) {
      await eventually(async () => ((await run.state()).pending[0]?.pending_id === id ? true : undefined), `it waits for ${id}`);
      await run.grant(id);
    }
    await run.result();
    const cost = await eventsOfCalls(run, 2);
    expect(cost).toBeLessThanOrEqual(2 * (searchAttributes ? 20 : 18));
    // A message that comes early shares a task with what was under way and saves some.
    expect(cost).toBeGreaterThan(2 * 14);
  }
});

test('search attributes, summaries and details tell the story', async () => {
  const run = await harness.start({ steps: [[call('email.send', { to: 'a' })]], call: gated(), searchAttributes: true });
  await run.waiting();
  const attributes = async () => (await run.handle.describe()).searchAttributes as Record<string, unknown[]>;
  await eventually(async () => ((await attributes())['HoldpointStatus']?.[0] === 'waiting' ? true : undefined), 'it is shown as waiting');
  expect(await attributes()).toMatchObject({ HoldpointAgent: ['bot'] });
  const metadata = await run.handle.query<{ currentDetails?: string }>('__temporal_workflow_metadata');
  expect(metadata.currentDetails).toContain('holdpoint approve apr_1_1');
  await run.grant('apr_1_1');
  await run.result();
  expect(await attributes()).toMatchObject({ HoldpointStatus: ['stopped'], HoldpointStopReason: ['completed'] });
  const summaries = (await run.handle.fetchHistory()).events?.flatMap((event) =>
    event.userMetadata?.summary?.data ? [JSON.parse(new TextDecoder().decode(event.userMetadata.summary.data)) as string] : [],
  );
  expect(summaries).toContain('1.1 email.send: wait for approval (apr_1_1)');
  expect(summaries).toContain('1.1 email.send: execute if approved');
});
