import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { loadPolicyFile } from '../../adapters/policy-file.ts';
import { loadTools } from '../../adapters/tools.ts';
import { type AuditEvent, HoldpointClient, type RunView } from '../../client/index.ts';
import { temporaryFolder } from '../support/index.ts';
import { holdpointJson, removeState, startUp, stopUp, type Up } from './cli.ts';

const EXAMPLE = join(import.meta.dirname, '../../examples/airline');
const CONFIG = join(EXAMPLE, 'holdpoint.yaml');
const WRITES = [
  'book_reservation',
  'cancel_reservation',
  'update_reservation_flights',
  'update_reservation_baggages',
  'update_reservation_passengers',
  'send_certificate',
];

interface Recorded {
  id: string;
  goal: string;
  calls: { tool: string; args: unknown; result: string }[];
}
interface Effect {
  tool: string;
  args: unknown;
  run_id: string;
  call_id: string;
  idempotency_key: string;
}
/** A recorded run, run again to its end. */
interface Replay {
  recorded: Recorded;
  run: RunView;
  events: AuditEvent[];
}

const isWrite = ({ tool }: { tool: string | null }): boolean => WRITES.includes(tool ?? '');
/** The nth call of a script is the only call of step n. */
const placed = (recorded: Recorded) => recorded.calls.map((call, index) => ({ ...call, call_id: `${index + 1}.1` }));

async function lines<T>(file: string): Promise<T[]> {
  return (await readFile(file, 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as T);
}
const recordings = await lines<Recorded>(join(EXAMPLE, 'runs.jsonl'));

test('the tools take every recorded call as it is and answer what was recorded, also when a run repeats a call', async () => {
  const tools = await loadTools((await loadPolicyFile(CONFIG)).tools);
  for (const recorded of recordings) {
    for (const { tool, args, call_id, result } of placed(recorded)) {
      const registered = tools.get(tool)!;
      expect(registered.kind).toBe(WRITES.includes(tool) ? 'write' : 'read');
      expect(registered.parse(args)).toEqual({ ok: true, value: args });
      const context = { run_id: recorded.id, call_id, idempotency_key: `${recorded.id}/${call_id}`, signal: new AbortController().signal };
      expect(await registered.execute(args, context)).toBe(result);
    }
  }
});

describe('ten recorded runs, every write approved by a person', () => {
  let folder: Awaited<ReturnType<typeof temporaryFolder>>;
  let stateDir: string;
  let up: Up | undefined;
  let approver: HoldpointClient;
  let replays: Replay[];
  let decided: string[];

  beforeAll(async () => {
    folder = await temporaryFolder();
    stateDir = join(folder.path, 'state');
    up = await startUp(stateDir, ['--config', CONFIG]);
    approver = new HoldpointClient({ url: up.addresses.api_url, apiKey: (await readFile(join(stateDir, 'keys', 'approver.key'), 'utf8')).trim() });
    const runFiles = join(folder.path, 'runs');
    await promisify(execFile)(process.execPath, [join(EXAMPLE, 'run-files.mjs'), runFiles]);
    expect((await readdir(runFiles)).sort()).toEqual(recordings.map(({ id }) => `${id}.json`).sort());
    const abort = new AbortController();
    const replaying = replayAll(runFiles).finally(() => abort.abort());
    [replays, decided] = await Promise.all([replaying, approveAll(abort.signal)]);
  }, 300_000);

  afterAll(async () => {
    if (up !== undefined) await stopUp(up);
    await removeState(stateDir);
    await folder.remove();
  });

  async function replayAll(runFiles: string): Promise<Replay[]> {
    const started: Promise<Replay>[] = [];
    for (const recorded of recordings) {
      const { code, data } = await holdpointJson<RunView>(['run', join(runFiles, `${recorded.id}.json`)], { stateDir });
      expect(code).toBe(0);
      started.push(stopped(data.run_id).then(async (run) => ({ recorded, run, events: await eventsOf(run.run_id) })));
    }
    return await Promise.all(started);
  }

  /** The person: says yes to whatever waits. @returns the requests in the order of the answers */
  async function approveAll(signal: AbortSignal): Promise<string[]> {
    const answered: string[] = [];
    while (!signal.aborted) {
      for (const { pending_id } of await approver.listApprovals({ status: 'open' })) {
        const { status } = await approver.decide(pending_id, { outcome: 'approved', reason: 'as recorded' });
        if (status === 'accepted') answered.push(pending_id);
      }
      await sleep(100);
    }
    return answered;
  }

  async function stopped(runId: string): Promise<RunView> {
    const deadline = performance.now() + 240_000;
    for (;;) {
      const run = await approver.getRun(runId, { wait: 30, until: 'stopped' });
      if (run.status === 'stopped' || performance.now() > deadline) return run;
    }
  }

  async function eventsOf(runId: string): Promise<AuditEvent[]> {
    const events: AuditEvent[] = [];
    let cursor: string | undefined;
    do {
      const page = await approver.audit({ run: runId, cursor, limit: 1_000 });
      events.push(...page.events);
      cursor = page.next ?? undefined;
    } while (cursor !== undefined);
    return events;
  }

  test('all of them end as completed, with every call counted', () => {
    expect(replays.map(({ recorded, run }) => [recorded.id, run.status, run.stop_reason, run.usage.tool_calls])).toEqual(
      recordings.map(({ id, calls }) => [id, 'stopped', 'completed', calls.length]),
    );
  });

  test('a read is never asked about and every write is asked about exactly once, in call order', () => {
    for (const { recorded, events } of replays) {
      const asked = events.filter(({ outcome }) => outcome === 'approval_required').map(({ tool, call_id }) => ({ tool, call_id }));
      expect(asked, recorded.id).toEqual(
        placed(recorded)
          .filter(isWrite)
          .map(({ tool, call_id }) => ({ tool, call_id })),
      );
    }
  });

  test('every call was allowed with the result ok, the writes after their own approval', () => {
    for (const { recorded, events } of replays) {
      const allowed = events
        .filter(({ outcome }) => outcome === 'allow')
        .map(({ tool, call_id, result, approver: by }) => ({ tool, call_id, result, approved: by !== null }));
      expect(allowed, recorded.id).toEqual(placed(recorded).map((call) => ({ tool: call.tool, call_id: call.call_id, result: 'ok', approved: isWrite(call) })));
    }
    const granted = replays.flatMap(({ events }) => events.filter(({ outcome }) => outcome === 'approval_granted').map(({ pending_id }) => pending_id));
    expect(granted).toHaveLength(new Set(decided).size);
    expect(new Set(granted)).toEqual(new Set(decided));
  });

  test('the effects are the recorded writes: as many, with these arguments, in this order', async () => {
    const effects = await lines<Effect>(join(stateDir, 'effects.jsonl'));
    for (const { recorded, run } of replays) {
      const own = effects.filter(({ run_id }) => run_id === run.run_id).map(({ tool, args, call_id }) => ({ tool, args, call_id }));
      expect(own, recorded.id).toEqual(
        placed(recorded)
          .filter(isWrite)
          .map(({ tool, args, call_id }) => ({ tool, args, call_id })),
      );
    }
    expect(effects).toHaveLength(recordings.flatMap(({ calls }) => calls.filter(isWrite)).length);
    expect(new Set(effects.map(({ idempotency_key }) => idempotency_key)).size).toBe(effects.length);
  });

  test('the audit trail verifies and counts one grant per write', async () => {
    const { code, data } = await holdpointJson<{ ok: boolean; grants: number; findings: unknown[] }>(['audit', 'verify'], { stateDir });
    expect({ code, ok: data.ok, findings: data.findings, grants: data.grants }).toEqual({ code: 0, ok: true, findings: [], grants: decided.length });
  });
});
