/** The runs whose histories are kept in `test/histories`: each phase of a run, replayed against today's code. */
import { writeFile } from 'node:fs/promises';
import { historyToJSON } from '@temporalio/common/lib/proto-utils.js';
import { Worker } from '@temporalio/worker';
import { inject } from 'vitest';
import { call, executed, gated, invalid, ready, refused, refusedState, type ScriptedRun, type Script, stopped, waiting } from './harness.ts';

export interface Recording {
  name: string;
  script: Script;
  /** Brings the run to the phase that is recorded. */
  drive: (run: ScriptedRun) => Promise<void>;
}

const one = [[call('email.send', { to: 'a' })]];
const toTheEnd = async (run: ScriptedRun): Promise<void> => void (await run.handle.result().catch(() => {}));

export const RECORDINGS: Recording[] = [
  { name: 'waiting', script: { steps: one, call: gated(600_000), searchAttributes: true }, drive: async (run) => void (await run.waiting()) },
  {
    name: 'granted',
    script: { steps: one, call: gated(), searchAttributes: true },
    drive: async (run) => {
      await run.waiting();
      await run.grant('apr_1_1');
      await toTheEnd(run);
    },
  },
  {
    name: 'denied',
    script: { steps: one, call: gated(), verify: () => [refusedState('apr_1_1', 'approval_denied')], searchAttributes: true },
    drive: async (run) => {
      await run.waiting();
      await run.deny('apr_1_1');
      await toTheEnd(run);
    },
  },
  { name: 'timed-out', script: { steps: one, call: gated(500), searchAttributes: true }, drive: toTheEnd },
  {
    name: 'cancelled',
    script: { steps: one, call: gated() },
    drive: async (run) => {
      await run.waiting();
      await run.handle.cancel();
      await toTheEnd(run);
    },
  },
  { name: 'allowed', script: { steps: [[call('a')], [call('b')]], call: executed }, drive: toTheEnd },
  {
    name: 'recorded-end',
    script: {
      plan: (step) =>
        step === 1
          ? { status: 'calls', calls: [call('a')] }
          : { status: 'done', result: 'all done', usage: { steps: 2, tool_calls: 1, active_seconds: 1, usd: 0 } },
      call: executed,
      searchAttributes: true,
    },
    drive: toTheEnd,
  },
  { name: 'killed', script: { steps: one, call: () => stopped('kill_switch') }, drive: toTheEnd },
  { name: 'invalid', script: { steps: [[call('a'), call('b'), call('c')]], call: invalid }, drive: toTheEnd },
  {
    name: 'several-calls',
    script: {
      steps: [[call('a'), call('b'), call('c'), call('d')]],
      call: (input) => {
        if (input.tool === 'b' && !input.tokens) return waiting(input, 'apr_b');
        if (input.tool === 'd') return refused(false);
        return input.mode === 'evaluate' ? ready() : executed();
      },
    },
    drive: async (run) => {
      await run.waiting();
      await run.grant('apr_b');
      await toTheEnd(run);
    },
  },
  {
    name: 'hostile-mail',
    script: { steps: one, call: gated() },
    drive: async (run) => {
      await run.waiting();
      for (const argument of [null, 7, { pending_id: 'apr_other', token: 'x' }, { pending_id: 'apr_1_1', token: 7 }])
        await run.handle.signal<unknown[]>('approval_granted', argument);
      await run.handle.signal('controls_changed');
      await run.handle.signal('no_such_signal');
      await run.waiting();
      await run.grant('apr_1_1');
      await toTheEnd(run);
    },
  },
];

/**
 * Replays a run's history. With HOLDPOINT_RECORD=1 it also becomes a fixture of `test/histories`, which is needed only
 * when the workflow's commands change on purpose, and before a release that has to read older runs.
 */
export async function replayAndKeep(name: string, run: ScriptedRun): Promise<void> {
  const history = await run.handle.fetchHistory();
  await Worker.runReplayHistory({ workflowBundle: { codePath: inject('workflowBundlePath') } }, history, run.handle.workflowId);
  if (process.env.HOLDPOINT_RECORD !== '1') return;
  const text = JSON.stringify(JSON.parse(historyToJSON(history), withoutMachine), null, 1);
  await writeFile(new URL(`../histories/${name}.json`, import.meta.url), `${text}\n`);
}

/** Host names, process ids and paths say nothing about a workflow. */
function withoutMachine(key: string, value: unknown): unknown {
  if (key === 'identity') return 'recorder';
  return key === 'stackTrace' ? '' : value;
}
