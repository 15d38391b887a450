/** Counts what happened from what others wrote down: the audit trail, the effects file, and the benchmark's list. */
import { readFileSync } from 'node:fs';
import type { AuditEvent, AuditReport, RunView } from 'holdpoint';
import { isWrite, type Recording } from './recordings.ts';
import { verdictOn, type Write } from './tasks.ts';

/** A recording that ran again, to its end. */
export interface Replay {
  recording: Recording;
  run: RunView;
  events: AuditEvent[];
}
export interface Effect extends Write {
  run_id: string;
}

export interface Tally {
  runs: number;
  completed: number;
  /** Ended by `repeat_refusal_limit`. */
  ended_early: number;
  calls: number;
  reads_allowed: number;
  reads_asked: number;
  writes_asked: number;
  approved: number;
  refused: number;
  /** Refused in runs that the benchmark scored as right. */
  refused_in_right_runs: number;
  runs_asking: number;
  most_questions: number;
  effects: number;
  /** Not listed by the run's task, or more often than listed. */
  wrong_effects: number;
  /** Listed writes of all runs, whether the agent asked for them or not. */
  writes_listed: number;
  ungated: { wrong_writes: number; accepted: number };
}

export function tallyOf(replays: readonly Replay[], effects: readonly Effect[]): Tally {
  const events = replays.flatMap((replay) => replay.events);
  const of = (outcome: AuditEvent['outcome'], from = events): AuditEvent[] => from.filter((event) => event.outcome === outcome);
  const asked = of('approval_required');
  const questions = replays.map((replay) => of('approval_required', replay.events).length);
  const ended = (reason: RunView['stop_reason']): number => replays.filter(({ run }) => run.stop_reason === reason).length;
  const rightRuns = replays.filter(({ recording }) => recording.reward === 1).flatMap((replay) => replay.events);
  const own = replays.map(({ recording, run }) => ({ recording, done: effects.filter((effect) => effect.run_id === run.run_id) }));
  return {
    runs: replays.length,
    completed: ended('completed'),
    ended_early: ended('approval_denied'),
    calls: new Set(events.filter(({ call_id }) => call_id !== null).map(({ run_id, call_id }) => `${run_id}/${call_id}`)).size,
    reads_allowed: of('allow').filter(({ tool }) => !isWrite(tool ?? '')).length,
    reads_asked: asked.filter(({ tool }) => !isWrite(tool ?? '')).length,
    writes_asked: asked.filter(({ tool }) => isWrite(tool ?? '')).length,
    approved: of('approval_granted').length,
    refused: of('approval_denied').length,
    refused_in_right_runs: of('approval_denied', rightRuns).length,
    runs_asking: questions.filter((count) => count > 0).length,
    most_questions: Math.max(0, ...questions),
    effects: own.flatMap(({ done }) => done).length,
    wrong_effects: own.flatMap(({ recording, done }) => wrongWrites(recording, done)).length,
    writes_listed: replays.flatMap(({ recording }) => recording.task.writes).length,
    ungated: ungated(replays.map(({ recording }) => recording)),
  };
}

/** What the same agents would have done with nobody in between, and how much of it the recorded airline did not turn down. */
export function ungated(recordings: readonly Recording[]): Tally['ungated'] {
  const wrong = recordings.flatMap((recording) =>
    wrongWrites(
      recording,
      recording.calls.filter(({ tool }) => isWrite(tool)),
    ),
  );
  return { wrong_writes: wrong.length, accepted: wrong.filter(({ result }) => !result.startsWith('Error:')).length };
}

function wrongWrites<W extends Write>({ task }: Recording, writes: readonly W[]): W[] {
  const right: W[] = [];
  const wrong: W[] = [];
  for (const write of writes) (verdictOn(write, task, right).outcome === 'approved' ? right : wrong).push(write);
  return wrong;
}

/** What must hold after every replay. @returns what does not */
export function broken(tally: Tally, audit: AuditReport): string[] {
  const facts: [boolean, string][] = [
    [tally.completed + tally.ended_early === tally.runs, `${tally.runs - tally.completed - tally.ended_early} runs ended otherwise than completed or refused`],
    [
      tally.calls === tally.reads_allowed + tally.writes_asked,
      `${tally.calls} calls, but ${tally.reads_allowed} reads allowed and ${tally.writes_asked} writes asked`,
    ],
    [tally.reads_asked === 0, `${tally.reads_asked} reads asked`],
    [tally.approved + tally.refused === tally.writes_asked, `${tally.approved} approved and ${tally.refused} refused of ${tally.writes_asked} asked`],
    [tally.effects === tally.approved, `${tally.effects} effects of ${tally.approved} approved writes`],
    [tally.wrong_effects === 0, `${tally.wrong_effects} wrong effects`],
    [audit.ok, `the audit trail does not verify: ${audit.findings.map(({ message }) => message).join('; ')}`],
  ];
  return facts.flatMap(([holds, otherwise]) => (holds ? [] : [otherwise]));
}

/** `effects.jsonl`: a line for each write that reached the airline. No file = none did. */
export function readEffects(file: string): Effect[] {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Effect);
}
