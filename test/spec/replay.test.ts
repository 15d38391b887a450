import { describe, expect, test } from 'vitest';
import { compileConditions } from '../../adapters/cel.ts';
import { parsePolicy } from '../../adapters/policy-file.ts';
import { type Candidate, type NewJudgement, type RecordedCall, rejudge, replayReport, type ToolFacts } from '../../core/replay.ts';

let calls = 0;
/** A write that was asked about and approved, unless said otherwise. */
function recorded(change: Partial<RecordedCall> = {}): RecordedCall {
  calls += 1;
  return {
    run_id: `run_${calls}`,
    call_id: '1.1',
    at: '2026-11-24T10:00:00.000Z',
    agent: 'support-agent',
    owner: 'ann',
    requester: 'rita',
    goal: 'a refund',
    tool: 'billing.refund',
    kind: 'write',
    idempotent: false,
    tool_tier: null,
    outcome: 'approval_required',
    rule: 'writes.require_approval',
    pending_id: `apr_${calls}`,
    answer: 'approved',
    args_hash: 'sha256:a',
    args_state: 'stored',
    args: { amount: 20 },
    ...change,
  };
}
const unasked = { pending_id: null, answer: null, idempotent: null } as const;
const read = (change: Partial<RecordedCall> = {}): RecordedCall =>
  recorded({ tool: 'search.read', kind: 'read', outcome: 'allow', rule: 'reads', ...unasked, ...change });
const denied = (change: Partial<RecordedCall> = {}): RecordedCall => recorded({ outcome: 'deny', rule: 'policy.tool_blocklist', ...unasked, ...change });

function candidate(yaml: string, tools: Record<string, ToolFacts> = {}): Candidate {
  const { policy } = parsePolicy(yaml, 'candidate.yaml');
  return { policy, conditions: compileConditions(policy), tool: (name) => tools[name] };
}
const rule = (text: string): string => `policy: { rules: [{ id: tried, tools: ["billing.*"], ${text} }] }`;
const SMALL = rule('effect: allow, when: args.amount < 50.0');

const replay = (yaml: string, ...history: RecordedCall[]) => replayReport(history.map((call) => rejudge(candidate(yaml), call)));
const judged = (yaml: string, call: RecordedCall, tools?: Record<string, ToolFacts>) => rejudge(candidate(yaml, tools), call).now as NewJudgement;

describe('given a history, when the policy in force is replayed', () => {
  test('then nothing changes, and there are as many questions as there were', () => {
    expect(replay('version: 1', recorded(), recorded({ answer: 'denied' }), read())).toMatchObject({
      recorded: 3,
      judged: 3,
      unjudged: { erased: 0, altered: 0 },
      questions: { before: 2, now: 2, fewer: 0, more: 0 },
      newly: { allowed: 0, asked: 0, denied: 0 },
      unanswered: [],
      changes: [],
    });
  });

  test('then an empty history is a report of noughts', () => {
    expect(replay(SMALL)).toMatchObject({ recorded: 0, judged: 0, questions: { before: 0, now: 0 }, changes: [] });
  });
});

describe('given calls that people decided, when a rule lets some pass', () => {
  const history = [
    recorded({ answer: 'approved' }),
    recorded({ answer: 'denied' }),
    recorded({ answer: 'timed_out' }),
    recorded({ answer: 'cancelled' }),
    recorded({ answer: 'open' }),
    recorded({ answer: 'denied', args: { amount: 900 } }),
  ];

  test('then the report says how many questions fewer, and what people had made of what would have passed', () => {
    expect(replay(SMALL, ...history)).toMatchObject({
      questions: { before: 6, now: 1, fewer: 5, more: 0 },
      newly: { allowed: 5, asked: 0, denied: 0 },
      newly_allowed: { approved: 1, denied: 1, timed_out: 1, cancelled: 1, open: 1, denied_by_policy: 0, allowed: 0 },
    });
  });

  test('then the changed calls are grouped by tool and rules, with their ids and without their arguments', () => {
    const { changes } = replay(SMALL, ...history);
    expect(changes).toMatchObject([
      {
        tool: 'billing.refund',
        before: { outcome: 'approval_required', rule: 'writes.require_approval' },
        now: { outcome: 'allow', rule: 'tried' },
        fates: { approved: 1, denied: 1 },
      },
    ]);
    expect(changes[0]?.calls.map(({ run_id, pending_id }) => [run_id, pending_id])).toEqual(
      history.slice(0, 5).map(({ run_id, pending_id }) => [run_id, pending_id]),
    );
    expect(JSON.stringify(changes)).not.toContain('amount');
  });
});

describe('given calls of each outcome, when the candidate decides otherwise', () => {
  test('then a call that was denied and would be asked now is a question more', () => {
    const report = replay('version: 1', denied());
    expect(report).toMatchObject({ questions: { before: 0, now: 1, fewer: 0, more: 1 }, newly: { allowed: 0, asked: 1, denied: 0 } });
    expect(report.changes[0]?.fates).toMatchObject({ denied_by_policy: 1 });
  });

  test('then a call that was denied and would pass now is told apart from those that people decided', () => {
    expect(replay(SMALL, denied(), recorded()).newly_allowed).toMatchObject({ denied_by_policy: 1, approved: 1 });
  });

  test('then a read that would be asked about, and an approved write that would be denied, are counted as such', () => {
    const yaml = 'policy: { tool_blocklist: [billing.refund], rules: [{ id: ask, tools: [search.read], effect: approval_required }] }';
    const report = replay(yaml, read(), recorded());
    expect(report).toMatchObject({ questions: { before: 1, now: 1, fewer: 1, more: 1 }, newly: { allowed: 0, asked: 1, denied: 1 } });
    expect(report.changes.map(({ now, fates }) => [now.rule, fates.allowed, fates.approved])).toEqual([
      ['ask', 1, 0],
      ['policy.tool_blocklist', 0, 1],
    ]);
  });

  test('then the same outcome by another rule is no change', () => {
    expect(replay(rule('effect: approval_required'), recorded()).changes).toEqual([]);
  });

  test('then what would newly pass comes first, and of the same kind the change of more calls', () => {
    const yaml = 'policy: { tool_blocklist: [x.*], rules: [{ id: b, tools: [b.*], effect: allow }, { id: c, tools: [c.*], effect: allow }] }';
    const history = ['x.y', 'b.y', 'c.y', 'c.y', 'x.y', 'x.y'].map((tool) => recorded({ tool }));
    expect(replay(yaml, ...history).changes.map((change) => [change.tool, change.calls.length])).toEqual([
      ['c.y', 2],
      ['b.y', 1],
      ['x.y', 3],
    ]);
  });
});

test('given the same calls in another order, then the counts are the same', () => {
  const history = [recorded(), recorded({ answer: 'denied' }), denied(), read(), recorded({ args_state: 'erased', args: null })];
  const { changes, ...counts } = replay(SMALL, ...history);
  const { changes: reversed, ...same } = replay(SMALL, ...history.toReversed());
  expect(same).toEqual(counts);
  expect(new Set(reversed.map(({ calls: [first] }) => first?.before.outcome))).toEqual(new Set(changes.map(({ calls: [first] }) => first?.before.outcome)));
});

test('given the same rules in another order, then the report is the same', () => {
  const rules = [
    '{ id: b-small, tools: [billing.*], effect: allow, when: args.amount < 50.0 }',
    '{ id: a-odd, tools: [billing.*], effect: allow, when: args.nothing > 1 }',
    '{ id: reads, tools: [search.*], effect: deny }',
  ];
  const history = [recorded(), denied({ args: { amount: 900 } }), read()];
  const report = (order: string[]) => replay(`policy: { rules: [${order.join(', ')}] }`, ...history);
  expect(report(rules.toReversed())).toEqual(report(rules));
  expect(report(rules)).toMatchObject({ newly: { allowed: 0, asked: 1, denied: 1 }, unanswered: [{ rule: 'a-odd', calls: 2 }] });
});

describe('given arguments that were erased or altered', () => {
  const gone = [recorded({ args_state: 'erased', args: null }), recorded({ args_state: 'altered', args: null, answer: 'denied' })];

  test('then their calls are counted as not judged, and as nothing else', () => {
    expect(replay(SMALL, ...gone, recorded())).toMatchObject({
      recorded: 3,
      judged: 1,
      unjudged: { erased: 1, altered: 1 },
      questions: { before: 1, now: 0, fewer: 1 },
      newly_allowed: { approved: 1, denied: 0 },
    });
  });

  test('then they are not judged by a rule that looks at no argument either', () => {
    expect(replay(rule('effect: allow'), ...gone)).toMatchObject({ judged: 0, newly: { allowed: 0 }, changes: [] });
  });
});

describe('given a condition that has no answer', () => {
  test('then an allow rule asks, a deny rule denies, and the report says how many calls were decided that way', () => {
    const report = replay(rule('effect: deny, when: args.nothing > 1'), recorded(), recorded({ answer: 'denied' }), read());
    expect(report.newly).toEqual({ allowed: 0, asked: 0, denied: 2 });
    expect(report.unanswered).toEqual([{ rule: 'tried', problem: 'missing_field', detail: 'field not found: nothing', calls: 2 }]);
    expect(replay(rule('effect: allow, when: args.nothing > 1'), recorded())).toMatchObject({
      questions: { now: 1 },
      unanswered: [{ rule: 'tried', calls: 1 }],
    });
  });

  test.each(['steps > 1', 'tool_calls > 1', 'active_seconds > 1.0', 'usd > 1.0'])('then run.%s has none: what the run had used is not recorded', (fact) => {
    expect(judged(rule(`effect: allow, when: run.${fact}`), recorded())).toMatchObject({
      outcome: 'approval_required',
      unanswered: { problem: 'missing_field' },
    });
  });

  test('then a call that a stronger rule decides does not count', () => {
    const yaml = 'policy: { rules: [{ id: odd, tools: ["*"], when: args.nothing, effect: allow }, { id: no, tools: ["*"], effect: deny }] }';
    expect(replay(yaml, recorded())).toMatchObject({ newly: { denied: 1 }, unanswered: [] });
  });
});

describe('a call is judged by what was recorded of it', () => {
  test.each([
    'now == timestamp("2026-11-24T10:00:00Z")',
    'run.goal == "a refund" && run.run_id.startsWith("run_")',
    'owner.name == "ann" && agent.name == "support-agent" && requester == "rita"',
    'tool.name == "billing.refund" && tool.kind == "write" && !tool.idempotent',
  ])('%s', (when) => {
    expect(judged(rule(`effect: allow, when: '${when}'`), recorded())).toMatchObject({ outcome: 'allow', unanswered: null });
  });

  test('a run that the API did not start stays one that asks before every write', () => {
    expect(judged(rule('effect: allow'), recorded({ owner: null, agent: 'unverified' }))).toMatchObject({ outcome: 'approval_required', rule: 'unverified' });
  });

  test('whether a tool that nobody was asked about is idempotent is unknown, unless a module of the candidate defines it', () => {
    const call = recorded({ ...unasked, outcome: 'allow' });
    const yaml = rule('effect: allow, when: tool.idempotent');
    expect(judged(yaml, call)).toMatchObject({ outcome: 'approval_required', unanswered: { problem: 'missing_field' } });
    const tools = { 'billing.refund': { kind: 'write', idempotent: true, tier: undefined } } as const;
    expect(judged(yaml, call, tools)).toMatchObject({ outcome: 'allow' });
  });

  test('a definition of the candidate says more than the record: kind and tier are what they would be now', () => {
    expect(judged('version: 1', recorded({ tool_tier: 'high' }))).toMatchObject({ rule: 'tiers.high' });
    const low = { 'billing.refund': { kind: 'write', idempotent: false, tier: 'low' } } as const;
    expect(judged('version: 1', recorded({ tool_tier: 'high' }), low)).toMatchObject({ outcome: 'allow', rule: 'tiers.low' });
    const reads = { 'billing.refund': { kind: 'read', idempotent: true, tier: undefined } } as const;
    expect(judged('version: 1', recorded(), reads)).toMatchObject({ outcome: 'allow', rule: 'reads' });
  });
});
