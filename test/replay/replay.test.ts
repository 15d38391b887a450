import { readdirSync, readFileSync } from 'node:fs';
import { DefaultLogger, Runtime, Worker } from '@temporalio/worker';
import { expect, inject, test } from 'vitest';

Runtime.install({ logger: new DefaultLogger('ERROR') });

interface JsonEvent {
  eventType: string;
  workflowExecutionStartedEventAttributes?: { workflowId: string };
  activityTaskScheduledEventAttributes?: { activityType: { name: string } };
  activityTaskCompletedEventAttributes?: { result?: { payloads: { data: string }[] } };
}
interface JsonHistory {
  events: JsonEvent[];
}

const FOLDER = new URL('../histories/', import.meta.url);
const names = readdirSync(FOLDER)
  .filter((name) => name.endsWith('.json'))
  .sort();
const historyOf = (name: string): JsonHistory => JSON.parse(readFileSync(new URL(name, FOLDER), 'utf8')) as JsonHistory;

async function replay(history: JsonHistory): Promise<void> {
  const id = history.events[0]?.workflowExecutionStartedEventAttributes?.workflowId;
  await Worker.runReplayHistory({ workflowBundle: { codePath: inject('workflowBundlePath') } }, history, id);
}

test('there is a history of every phase', () => {
  expect(names).toEqual(
    expect.arrayContaining([
      'waiting.json',
      'granted.json',
      'denied.json',
      'timed-out.json',
      'cancelled.json',
      'allowed.json',
      'several-calls.json',
      'hostile-mail.json',
      'continued.json',
    ]),
  );
});

test.each(names)('the history %s replays against the workflow of today', async (name) => {
  await replay(historyOf(name));
});

test('a history in which another activity was scheduled does not replay', async () => {
  const history = historyOf('granted.json');
  const scheduled = history.events.filter((event) => event.activityTaskScheduledEventAttributes?.activityType.name === 'callTool');
  expect(scheduled.length).toBe(2);
  for (const { activityTaskScheduledEventAttributes: attributes } of scheduled) if (attributes) attributes.activityType.name = 'closeRequest';
  await expect(replay(history)).rejects.toThrow(/Nondeterminism/);
});

test('a history in which a run went on although the gateway had stopped it does not replay', async () => {
  const history = historyOf('granted.json');
  const refusal = { status: 'stopped', stop: { stop_reason: 'kill_switch', reason: 'forged' } };
  const grant = history.events.find((event) => payloadOf(event)?.status === 'executed');
  const [payload] = grant?.activityTaskCompletedEventAttributes?.result?.payloads ?? [];
  expect(payload).toBeDefined();
  if (payload) payload.data = Buffer.from(JSON.stringify(refusal)).toString('base64');
  await expect(replay(history)).rejects.toThrow(/Nondeterminism/);
});

function payloadOf(event: JsonEvent): { status?: string } | undefined {
  const data = event.activityTaskCompletedEventAttributes?.result?.payloads[0]?.data;
  return data === undefined ? undefined : (JSON.parse(Buffer.from(data, 'base64').toString('utf8')) as { status?: string });
}
