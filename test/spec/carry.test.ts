import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type Carried, carryRun, readCarried } from '../../core/carry.ts';
import { newRun, nextMove, type Run, type Slot } from '../../core/run.ts';

const request = {
  pending_id: 'apr_1',
  call_id: '1.1',
  tool: 'email.send',
  preview: 'Send mail',
  reason: 'asks',
  rule: 'r',
  tier: 'default',
  args_hash: 'sha256:1',
  quorum: 1,
  missing: 0,
  expires_at: '2026-01-01T00:00:00.000Z',
  remaining_ms: 1,
};
const slot = (standing: Slot['standing'], callId = '1.1'): Slot => ({ call_id: callId, call: { tool: 'email.send', args: {} }, standing });
const runOf = (...slots: Slot[]): Run => ({ ...newRun('run_a'), step: 1, slots });
const carried = (run: Run): Carried => ({ version: 1, run, mail: [], judged: [], ask_ledger: false, controls_changed: false });

describe('what a run takes along', () => {
  test('reads back as it was, through JSON', () => {
    const run = runOf(slot({ at: 'done' }), slot({ at: 'ready' }, '1.2'), slot({ at: 'waiting', request, deadline: 5 }, '1.3'), slot({ at: 'new' }, '1.4'));
    const taken = {
      ...carried(run),
      mail: [{ pending_id: 'apr_1', signal: 'approval_granted' as const, token: null }],
      judged: ['mark'],
      ask_ledger: true,
      controls_changed: true,
    };
    expect(readCarried(JSON.parse(JSON.stringify(taken)), 'run_a')).toEqual(taken);
  });

  test('is no grant: the request waits again, and the ledger is asked', () => {
    const run = runOf(slot({ at: 'granted', request, tokens: ['a.b.c'] }));
    const { run: taken, left_grants: leftGrants } = carryRun(run, 1_000);
    expect(leftGrants).toBe(true);
    expect(JSON.stringify(taken)).not.toContain('a.b.c');
    expect(nextMove(taken)).toEqual({ type: 'wait' });
    expect(carryRun(runOf(slot({ at: 'waiting', request, deadline: 5 })), 1_000)).toMatchObject({ left_grants: false });
  });

  test('with a grant in it is not believed', () => {
    expect(readCarried(carried(runOf(slot({ at: 'granted', request, tokens: ['a.b.c'] }))), 'run_a')).toBeUndefined();
  });

  test('of another run is not believed', () => {
    expect(readCarried(carried(runOf()), 'run_a')).toBeDefined();
    expect(readCarried(carried(runOf()), 'run_b')).toBeUndefined();
  });

  test.each<[string, (value: Record<string, unknown>) => unknown]>([
    ['another version', (value) => ({ ...value, version: 2 })],
    ['no run', (value) => ({ ...value, run: null })],
    ['calls that are no list', (value) => ({ ...value, run: { ...(value.run as object), slots: {} } })],
    ['a call without an id', (value) => ({ ...value, run: { ...(value.run as object), slots: [{ call: { tool: 't' }, standing: { at: 'new' } }] } })],
    ['a wait without a request', (value) => ({ ...value, run: { ...(value.run as object), slots: [slot({ at: 'waiting', deadline: 1 } as never)] } })],
    [
      'a wait without a deadline',
      (value) => ({ ...value, run: { ...(value.run as object), slots: [slot({ at: 'waiting', request, deadline: null } as never)] } }),
    ],
    ['a step that is no number', (value) => ({ ...value, run: { ...(value.run as object), step: '1' } })],
    ['usage that is no number', (value) => ({ ...value, run: { ...(value.run as object), usage: { steps: 0, tool_calls: 0, active_seconds: 'x', usd: 0 } } })],
    ['a stop without a reason', (value) => ({ ...value, run: { ...(value.run as object), stop: { stop_reason: 'completed' } } })],
    ['mail under another signal', (value) => ({ ...value, mail: [{ pending_id: 'a', signal: 'state', token: null }] })],
    ['mail that is no list', (value) => ({ ...value, mail: { length: 0 } })],
    ['marks that are no text', (value) => ({ ...value, judged: [1] })],
  ])('with %s is not believed', (_name, change) => {
    expect(readCarried(change({ ...carried(runOf(slot({ at: 'new' }))) }), 'run_a')).toBeUndefined();
  });

  test('is read without a throw, whatever it is', () => {
    fc.assert(
      fc.property(fc.anything({ withNullPrototype: true, withDate: true, withBigInt: true }), (value) => {
        expect(readCarried(value, 'run_a')).toBeUndefined();
        expect(readCarried({ version: 1, run: value, mail: [], judged: [] }, 'run_a')).toBeUndefined();
      }),
    );
  });

  test('takes only `true` as true', () => {
    const read = readCarried({ ...carried(runOf()), ask_ledger: 'yes', controls_changed: 1 }, 'run_a');
    expect(read).toMatchObject({ ask_ledger: false, controls_changed: false });
  });
});
