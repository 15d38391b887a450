import { afterAll, beforeAll, expect, test } from 'vitest';
import { Parts, pendingOf, SEND } from './parts.ts';

let parts: Parts;
beforeAll(async () => {
  parts = await Parts.start({ config: 'approvals: { ttl_seconds: 900 }\n' });
});
afterAll(() => parts.close());

test('11,000 junk signals to one run leave it able to be approved', { timeout: 300_000 }, async () => {
  const run = await parts.run([SEND]);
  const client = await parts.temporal();
  const handle = client.workflow.getHandle(run.run_id);
  const junk = [undefined, null, { pending_id: 'apr_x', token: 'y' }, { pending_id: pendingOf(run), token: 'a.b.c' }, 'text'];
  let sent = 0;
  let refused = 0;
  const sender = async (): Promise<void> => {
    while (sent < 11_000) {
      const index = sent++;
      await handle.signal<unknown[]>(index % 2 === 0 ? 'approval_granted' : 'approval_denied', junk[index % junk.length]).catch(() => (refused += 1));
    }
  };
  await Promise.all(Array.from({ length: 40 }, sender));
  expect(refused).toBeLessThan(11_000);
  expect(await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' })).toMatchObject({ status: 'accepted' });
  expect(await parts.stopped(run.run_id, 120_000)).toMatchObject({ stop_reason: 'completed' });
  expect(await parts.effects(run.run_id)).toHaveLength(1);
});
