/** The result, for a person. Fits a terminal of 60 columns. */
import type { AuditReport } from 'holdpoint';
import type { Tally } from './tally.ts';

export interface Outcome extends Tally {
  repeat_refusal_limit: number;
  /** Recording → the run that it became. */
  run_ids: Record<string, string>;
  /** From the first start to the last end. */
  seconds: number;
  audit: AuditReport;
  /** What should hold and does not. */
  broken: string[];
}

export function table(outcome: Outcome): string {
  const { runs, ungated, audit } = outcome;
  const number = (value: number): string => value.toLocaleString('en-US').padStart(6);
  const rows: [string, string, string][] = [
    ['runs', number(runs), outcome.ended_early === 0 ? 'each to its end' : `${outcome.ended_early} ended by repeated refusals`],
    ['calls', number(outcome.calls), ''],
    ['  reads allowed', number(outcome.reads_allowed), `${outcome.reads_asked} asked about`],
    ['  writes asked', number(outcome.writes_asked), 'each once'],
    ['    approved', number(outcome.approved), 'by local-approver'],
    ['    refused', number(outcome.refused), `${outcome.refused_in_right_runs} in runs scored right`],
    ['effects executed', number(outcome.effects), `of ${outcome.writes_listed} listed writes`],
    ['  of them wrong', number(outcome.wrong_effects), ''],
    [
      'questions per run',
      (outcome.writes_asked / runs).toFixed(2).padStart(6),
      `at most ${outcome.most_questions}; none in ${runs - outcome.runs_asking} runs`,
    ],
    ['time', `${outcome.seconds.toFixed(0)} s`.padStart(6), `${(outcome.calls / outcome.seconds).toFixed(0)} calls a second`],
    ['audit', audit.ok ? '    ok' : 'NOT OK', `${audit.events.toLocaleString('en-US')} events, ${audit.grants} signed grants`],
  ];
  const lines = rows.map(([name, value, note]) => `${name.padEnd(20)}${value}   ${note}`.trimEnd());
  return [
    `Airline runs, every write gated, repeat_refusal_limit: ${outcome.repeat_refusal_limit}`,
    '',
    ...lines,
    '',
    `As recorded, without a gate: ${ungated.wrong_writes} writes that are not listed;`,
    `the airline took ${ungated.accepted} of them and turned ${ungated.wrong_writes - ungated.accepted} down.`,
    ...outcome.broken.map((what) => `\nMUST NOT BE: ${what}`),
  ].join('\n');
}
