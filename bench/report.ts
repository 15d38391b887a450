/** Medians, ratios and bars of what was measured, as data and as a table. */
import type { Crowd, Events, Memory, Requests } from './extras.ts';
import type { CpuMs, RoundOfOneSide } from './phases.ts';
import type { ServerKind } from './stand.ts';

export interface ServerResult {
  /** In the order in which they were measured: one of each side a round. */
  rounds: { minimal: RoundOfOneSide; holdpoint: RoundOfOneSide }[];
  requests: Requests | null;
  events: Events | null;
  memory: Memory | null;
  crowd: Crowd | null;
}

export interface Comparison {
  what: string;
  unit: string;
  minimal: number;
  holdpoint: number;
  /** Holdpoint divided by minimal. */
  ratio: number;
  bar: string | null;
  met: boolean | null;
}

type Pick<T> = (round: RoundOfOneSide) => T;

/** Least ratio of throughput and largest ratio of time to the minimal workflow. */
const THROUGHPUT = 0.8;
const TIME = 1.25;

export function compare({ rounds }: ServerResult): Comparison[] {
  const row = (what: string, unit: string, pick: Pick<number>, bar?: { at_least: number } | { at_most: number }): Comparison => {
    const [minimal, holdpoint] = [median(rounds.map((round) => pick(round.minimal))), median(rounds.map((round) => pick(round.holdpoint)))];
    const ratio = holdpoint / minimal;
    if (!bar) return { what, unit, minimal, holdpoint, ratio, bar: null, met: null };
    const met = 'at_least' in bar ? ratio >= bar.at_least : ratio <= bar.at_most;
    return { what, unit, minimal, holdpoint, ratio, bar: 'at_least' in bar ? `at least ${bar.at_least}` : `at most ${bar.at_most}`, met };
  };
  const cpu =
    (pick: Pick<CpuMs | null>, part: (used: CpuMs) => number): Pick<number> =>
    (round) => {
      const used = pick(round);
      return used ? part(used) : Number.NaN;
    };
  const all = (used: CpuMs): number => used.worker + used.temporal + used.postgres;
  const run: Pick<CpuMs | null> = (round) => round.cpu_ms_per_run;
  const call: Pick<CpuMs | null> = (round) => round.cpu_ms_per_call;
  return [
    row('approved calls, runs of many calls', 'a second', (round) => round.calls_per_second, { at_least: THROUGHPUT }),
    row('message → tool, idle, p50', 'ms', (round) => round.idle.p50, { at_most: TIME }),
    row('message → tool, idle, p99', 'ms', (round) => round.idle.p99, { at_most: TIME }),
    row('one-call runs, start to effect', 'a second', (round) => round.runs_per_second),
    row('one-call runs asked', 'a second', (round) => round.asks_per_second),
    row('one-call runs approved', 'a second', (round) => round.approvals_per_second),
    row('message → tool, loaded, p50', 'ms', (round) => round.loaded.p50),
    row('message → tool, loaded, p99', 'ms', (round) => round.loaded.p99),
    row('CPU per one-call run', 'ms', cpu(run, all)),
    row('CPU per approved call, runs of many calls', 'ms', cpu(call, all)),
    row(
      '  Temporal server',
      'ms',
      cpu(call, ({ temporal }) => temporal),
    ),
    row(
      '  PostgreSQL',
      'ms',
      cpu(call, ({ postgres }) => postgres),
    ),
    row(
      '  worker, main thread',
      'ms',
      cpu(call, ({ worker_main: main }) => main),
    ),
    row(
      '  worker, workflows and pool',
      'ms',
      cpu(call, ({ worker_node: node }) => node),
    ),
    row(
      '  worker, native threads',
      'ms',
      cpu(call, ({ worker_native: native }) => native),
    ),
  ];
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length / 2;
  return sorted.length % 2 === 1 ? (sorted[Math.floor(middle)] ?? Number.NaN) : ((sorted[middle - 1] ?? Number.NaN) + (sorted[middle] ?? Number.NaN)) / 2;
}

/** Three significant digits: more is noise. */
export function short(value: number): number {
  return Number.isFinite(value) ? Number(value.toPrecision(3)) : value;
}

export function tables(kind: ServerKind, result: ServerResult): string {
  return [`Temporal server: ${kind}`, ...sideBySide(result), ...alone(result)].join('\n');
}

function sideBySide(result: ServerResult): string[] {
  if (result.rounds.length === 0) return [];
  const rows = compare(result).map(({ what, unit, minimal, holdpoint, ratio, bar, met }) => [
    what,
    String(short(minimal)),
    String(short(holdpoint)),
    unit,
    ratio.toFixed(2),
    bar === null ? '' : `${bar}: ${met ? 'met' : 'MISSED'}`,
  ]);
  return aligned([[`medians of ${result.rounds.length} rounds`, 'minimal', 'holdpoint', '', 'ratio', ''], ...rows]);
}

function alone({ requests, events, memory, crowd }: ServerResult): string[] {
  const rows: string[][] = [];
  if (requests) rows.push(['decision request → tool, p50 / p99', `${short(requests.to_tool.p50)} / ${short(requests.to_tool.p99)} ms`]);
  if (requests) rows.push(['decision request → answer, p50 / p99', `${short(requests.to_answer.p50)} / ${short(requests.to_answer.p99)} ms`]);
  if (events) rows.push(['history events per gated / allowed call', `${events.gated} / ${events.allowed}`]);
  if (memory) {
    rows.push(['memory per waiting run, cached / evicted', `${short(memory.kb_per_run_cached)} / ${short(memory.kb_per_run_evicted)} KB`]);
    rows.push(['waking a run, p50, cached / evicted', `${short(memory.resume_cached.p50)} / ${short(memory.resume_evicted.p50)} ms`]);
  }
  if (crowd) {
    const { worker_mb: mb } = crowd;
    rows.push([
      `${crowd.waiting} waiting runs on one worker`,
      `${mb === null ? 'memory unknown' : `${short(mb.waiting)} MB, at most ${short(mb.peak)} MB`}; started in ${short(crowd.start_seconds)} s`,
    ]);
    rows.push(['all of them approved', `${crowd.effects} effects of ${crowd.calls_with_effect} calls in ${short(crowd.approve_seconds)} s`]);
  }
  return rows.length === 0 ? [] : ['', ...aligned(rows)];
}

function aligned(rows: readonly string[][]): string[] {
  const widths = (rows[0] ?? []).map((_, column) => Math.max(...rows.map((row) => (row[column] ?? '').length)));
  return rows.map((row) =>
    row
      .map((cell, column) => (column === 0 ? cell.padEnd(widths[column] ?? 0) : cell.padStart(widths[column] ?? 0)))
      .join('  ')
      .trimEnd(),
  );
}
