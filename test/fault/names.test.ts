import { afterAll, beforeAll, expect, test } from 'vitest';
import { Parts } from './parts.ts';

let parts: Parts;
beforeAll(async () => {
  parts = await Parts.start();
});
afterAll(() => parts.close());

test("a workflow under the name of the service's own chain, or under one that cannot be stored, fails and writes nothing", async () => {
  const client = await parts.temporal();
  const before = await parts.events('system');
  const input = { agent: 'support', requester: 'rita', planner: { type: 'script', calls: [{ tool: 'search.read', args: { query: 'x' } }] } };
  for (const workflowId of ['system', 'nul\0nul']) {
    const handle = await client.workflow.start('agentRun', { workflowId, taskQueue: parts.taskQueue, args: [input] }).catch(() => undefined);
    // A server may refuse such an id itself.
    if (handle) await expect(handle.result()).rejects.toMatchObject({ cause: { type: 'invalid_run' } });
  }
  expect(await parts.events('system')).toEqual(before);
  expect((await parts.admin.query('SELECT run_id FROM run_states')).rows).toEqual([]);
});
