/**
 * What a run takes along when its history grows too long and it continues as a new execution. It carries no authority:
 * the gateway believes rows, not this. It is read as strictly as anything from outside, since it comes back as an argument.
 */
import { isMail, type Mail } from './mail.ts';
import type { CallSummary, Stop } from './run-contract.ts';
import { isPendingView, type Run, type Slot, type Standing } from './run.ts';

export interface Carried {
  version: 1;
  run: Run;
  mail: Mail[];
  /** Marks of mail that was judged before. */
  judged: string[];
  /** The ledger must be asked where the open requests stand: mail was lost, or grants were left behind. */
  ask_ledger: boolean;
  /** `controls_changed` came and is not handled yet. */
  controls_changed: boolean;
}

/** Makes a run small and plain. A grant is not carried: its tokens are in the ledger, so it is asked for again. */
export function carryRun(run: Run, now: number): { run: Run; left_grants: boolean } {
  const slots = run.slots.map((slot): Slot => {
    const { standing } = slot;
    return standing.at === 'granted' ? { ...slot, standing: { at: 'waiting', request: standing.request, deadline: now } } : slot;
  });
  return { run: { ...run, slots }, left_grants: run.slots.some((slot) => slot.standing.at === 'granted') };
}

/** Undefined when the value is not what {@link carryRun} and the workflow made of a run. */
export function readCarried(value: unknown, runId: string): Carried | undefined {
  if (!isRecord(value) || value['version'] !== 1 || !isRun(value['run']) || value['run'].run_id !== runId) return undefined;
  const { mail, judged, ask_ledger: askLedger, controls_changed: controlsChanged } = value;
  if (!Array.isArray(mail) || !mail.every(isMail) || !isTexts(judged)) return undefined;
  return { version: 1, run: value['run'], mail, judged, ask_ledger: askLedger === true, controls_changed: controlsChanged === true };
}

function isRun(value: unknown): value is Run {
  if (!isRecord(value)) return false;
  const { slots, calls, usage, stop } = value;
  const words = ['run_id', 'agent', 'goal'].every((key) => typeof value[key] === 'string');
  const numbers = ['step', 'invalid_in_a_row'].every((key) => Number.isSafeInteger(value[key]));
  if (!words || !numbers || typeof value['search_attributes'] !== 'boolean') return false;
  if (!isRecord(usage) || !['steps', 'tool_calls', 'active_seconds', 'usd'].every((key) => Number.isFinite(usage[key]))) return false;
  return Array.isArray(slots) && slots.every(isSlot) && Array.isArray(calls) && calls.every(isSummary) && (stop === null || isStop(stop));
}

function isSlot(value: unknown): value is Slot {
  return (
    isRecord(value) &&
    typeof value['call_id'] === 'string' &&
    isRecord(value['call']) &&
    typeof value['call']['tool'] === 'string' &&
    isStanding(value['standing'])
  );
}

function isStanding(value: unknown): value is Standing {
  if (!isRecord(value)) return false;
  if (value['at'] === 'waiting') return isPendingView(value['request']) && Number.isFinite(value['deadline']);
  return value['at'] === 'new' || value['at'] === 'ready' || value['at'] === 'done';
}

function isSummary(value: unknown): value is CallSummary {
  return isRecord(value) && ['call_id', 'tool', 'status'].every((key) => typeof value[key] === 'string');
}

function isStop(value: unknown): value is Stop {
  return isRecord(value) && typeof value['stop_reason'] === 'string' && typeof value['reason'] === 'string';
}

function isTexts(value: unknown): value is string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string');
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}
