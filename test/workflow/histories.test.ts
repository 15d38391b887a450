/** Fresh histories of every phase replay. */
import { afterAll, beforeAll, test } from 'vitest';
import { startHarness, type Harness } from './harness.ts';
import { RECORDINGS, replayAndKeep } from './recordings.ts';

let harness: Harness;
beforeAll(async () => {
  harness = await startHarness();
});
afterAll(() => harness.stop());

test.each(RECORDINGS)('a run that is $name replays', async ({ name, script, drive }) => {
  const run = await harness.start(script);
  await drive(run);
  await replayAndKeep(name, run);
  if ((await run.handle.describe()).status.name === 'RUNNING') await run.handle.terminate();
});
