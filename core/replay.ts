/** Policy replay: recorded calls, judged again by another policy. Pure: nobody is asked, nothing is called. */
import { assertNever } from './errors.ts';
import type { PolicyFile } from './contracts.ts';
import { considerRules, decidePolicy } from './policy.ts';
import type { ConditionProblem, Conditions, PolicyCall } from './policy-facts.ts';
import type { PolicyOutcome } from './words.ts';

/** What people made of a question; `open`: nothing yet. */
export type HumanAnswer = 'approved' | 'denied' | 'timed_out' | 'cancelled' | 'open';

/** A call as the audit trail holds it: policy's first judgement of it, what it was judged by, and what came of it. */
export interface RecordedCall {
  run_id: string;
  call_id: string;
  /** Of the judgement: ISO 8601, by the ledger's clock. */
  at: string;
  agent: string;
  /** Null: the API did not start the run. */
  owner: string | null;
  requester: string | null;
  /** Empty when the run has none. */
  goal: string;
  tool: string;
  kind: 'read' | 'write';
  /** Recorded with a question only; null otherwise. */
  idempotent: boolean | null;
  /** As the tool's definition said. Recorded with a question only; null: it named none, or none is recorded. */
  tool_tier: string | null;
  outcome: PolicyOutcome;
  rule: string | null;
  /** The question; null when nobody was asked. */
  pending_id: string | null;
  /** Null when nobody was asked. */
  answer: HumanAnswer | null;
  args_hash: string;
  /** `erased`: no longer stored. `altered`: what is stored is not what was hashed. `args` is null for both. */
  args_state: 'stored' | 'erased' | 'altered';
  args: unknown;
}

/** What a tool's definition says to policy. */
export interface ToolFacts {
  readonly kind: 'read' | 'write';
  readonly idempotent: boolean;
  readonly tier: string | undefined;
}

/** The policy that is tried. */
export interface Candidate {
  readonly policy: PolicyFile;
  readonly conditions: Conditions;
  /** A tool as the candidate's modules define it; undefined: what was recorded counts. */
  readonly tool: (name: string) => ToolFacts | undefined;
}

/** A condition that the new judgement rests on, though it had no answer. */
export interface Unanswered {
  problem: ConditionProblem;
  /** May quote arguments. */
  detail: string;
}

export interface NewJudgement {
  outcome: PolicyOutcome;
  rule: string;
  reason: string;
  unanswered: Unanswered | null;
}

/** A recorded call with both judgements, without its arguments. */
export interface Rejudged extends Pick<RecordedCall, 'run_id' | 'call_id' | 'at' | 'tool' | 'pending_id' | 'answer'> {
  before: { outcome: PolicyOutcome; rule: string | null };
  /** `erased` or `altered`: without its arguments the call cannot be judged. */
  now: NewJudgement | 'erased' | 'altered';
}

type Judged = Rejudged & { now: NewJudgement };

export function rejudge(candidate: Candidate, recorded: RecordedCall): Rejudged {
  const { run_id, call_id, at, tool, pending_id, answer, outcome, rule, args_state } = recorded;
  const about = { run_id, call_id, at, tool, pending_id, answer, before: { outcome, rule } };
  return { ...about, now: args_state === 'stored' ? judgeNow(candidate, callOf(candidate, recorded)) : args_state };
}

function judgeNow({ policy, conditions }: Candidate, call: PolicyCall): NewJudgement {
  const considered = considerRules(policy, call, conditions);
  const { outcome, rule, reason } = decidePolicy(policy, call, considered);
  const answer = considered.find((one) => one.rule.id === rule)?.answer;
  return { outcome, rule, reason, unanswered: typeof answer === 'object' ? { problem: answer.problem, detail: answer.detail } : null };
}

/** How much of its budget the run had used is not recorded: a condition on that has no answer. */
function callOf({ tool: definitionOf }: Candidate, recorded: RecordedCall): PolicyCall {
  const { tool, agent, owner, requester, args, run_id, goal } = recorded;
  const defined = definitionOf(tool);
  const idempotent = defined?.idempotent ?? recorded.idempotent;
  return {
    tool,
    kind: defined?.kind ?? recorded.kind,
    tool_tier: defined ? defined.tier : (recorded.tool_tier ?? undefined),
    ...(idempotent === null ? {} : { idempotent }),
    verified: owner !== null,
    agent,
    owner,
    requester,
    args,
    run: { run_id, ...(goal === '' ? {} : { goal }) },
    now: new Date(recorded.at),
  };
}

/** How many of some calls people had approved, and so on; `denied_by_policy`, `allowed`: nobody had been asked. */
export type Fates = Record<HumanAnswer | 'denied_by_policy' | 'allowed', number>;

/** Calls whose outcome changes in the same way. */
export interface Change {
  tool: string;
  before: { outcome: PolicyOutcome; rule: string | null };
  now: { outcome: PolicyOutcome; rule: string };
  fates: Fates;
  calls: Judged[];
}

/** Calls that a rule decided although its condition had no answer. */
export interface UnansweredRule extends Unanswered {
  rule: string;
  calls: number;
}

/** Counts are of the calls that could be judged, but for `recorded` and `unjudged`. */
export interface ReplayReport {
  recorded: number;
  judged: number;
  unjudged: { erased: number; altered: number };
  questions: { before: number; now: number; fewer: number; more: number };
  newly: { allowed: number; asked: number; denied: number };
  newly_allowed: Fates;
  /** By rule and kind of problem; `detail` is the first call's. */
  unanswered: UnansweredRule[];
  /** Newly allowed, newly asked, newly denied; the most calls first. */
  changes: Change[];
}

export function replayReport(calls: readonly Rejudged[]): ReplayReport {
  const judged = calls.filter(isJudged);
  const changed = judged.filter(({ before, now }) => before.outcome !== now.outcome);
  const newly = (outcome: PolicyOutcome): Judged[] => changed.filter(({ now }) => now.outcome === outcome);
  const unjudged = (why: Rejudged['now']): number => calls.filter(({ now }) => now === why).length;
  const asked = judged.filter(({ before }) => before.outcome === 'approval_required').length;
  const [fewer, more] = [changed.filter(({ before }) => before.outcome === 'approval_required').length, newly('approval_required').length];
  return {
    recorded: calls.length,
    judged: judged.length,
    unjudged: { erased: unjudged('erased'), altered: unjudged('altered') },
    questions: { before: asked, now: asked - fewer + more, fewer, more },
    newly: { allowed: newly('allow').length, asked: more, denied: newly('deny').length },
    newly_allowed: fatesOf(newly('allow')),
    unanswered: unansweredRules(judged),
    changes: (['allow', 'approval_required', 'deny'] as const).flatMap((outcome) => changesOf(newly(outcome))),
  };
}

const isJudged = (call: Rejudged): call is Judged => typeof call.now === 'object';

function fatesOf(calls: readonly Judged[]): Fates {
  const fates: Fates = { approved: 0, denied: 0, timed_out: 0, cancelled: 0, open: 0, denied_by_policy: 0, allowed: 0 };
  for (const call of calls) fates[fateOf(call)]++;
  return fates;
}

function fateOf({ answer, before: { outcome } }: Judged): keyof Fates {
  switch (outcome) {
    case 'approval_required':
      return answer ?? 'open';
    case 'deny':
      return 'denied_by_policy';
    case 'allow':
      return 'allowed';
    default:
      return assertNever(outcome, 'outcome');
  }
}

function changesOf(calls: readonly Judged[]): Change[] {
  const groups = grouped(calls, ({ tool, before, now }) => [tool, before.outcome, before.rule, now.outcome, now.rule]);
  return groups
    .map(([first, ...others]): Change => {
      const { tool, before, now } = first;
      const all = [first, ...others];
      return { tool, before, now: { outcome: now.outcome, rule: now.rule }, fates: fatesOf(all), calls: all };
    })
    .sort((a, b) => b.calls.length - a.calls.length);
}

function unansweredRules(judged: readonly Judged[]): UnansweredRule[] {
  const found = judged.flatMap(({ now: { rule, unanswered } }) => (unanswered === null ? [] : [{ rule, ...unanswered }]));
  return grouped(found, ({ rule, problem }) => [rule, problem]).map((same) => ({ ...same[0], calls: same.length }));
}

/** In the order in which each group's first member comes. */
function grouped<T>(members: readonly T[], keyOf: (member: T) => unknown[]): [T, ...T[]][] {
  const groups = new Map<string, [T, ...T[]]>();
  for (const member of members) {
    const key = JSON.stringify(keyOf(member));
    const group = groups.get(key);
    if (group) group.push(member);
    else groups.set(key, [member]);
  }
  return [...groups.values()];
}
