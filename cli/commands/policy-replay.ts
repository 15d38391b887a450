/** `holdpoint policy replay`: what a policy file would have made of the calls that the audit trail holds. */
import { loadPolicyFile } from '../../adapters/policy-file.ts';
import { loadTools } from '../../adapters/tools.ts';
import type { HoldpointClient } from '../../client/index.ts';
import type { RecordedCallsPage } from '../../client/types.ts';
import { type Candidate, type Change, type Fates, type Rejudged, rejudge, replayReport, type ReplayReport } from '../../core/replay.ts';
import { clientFor, contextOf, type CommonOptions } from '../context.ts';
import { counted, print, printFields, printJson, styled, tell } from '../output.ts';
import { visible } from '../visible.ts';
import { sinceTime } from './audit.ts';

interface ReplayOptions extends CommonOptions {
  since?: string;
  run?: string;
  examples?: number;
}

const PAGE = 500;
const EXAMPLES = 5;

export async function replay(file: string, options: ReplayOptions): Promise<number> {
  const context = contextOf(options);
  const loaded = await loadPolicyFile(file);
  const tools = await loadTools(loaded.tools);
  const filter = { run: options.run, since: options.since === undefined ? undefined : sinceTime(options.since) };
  const candidate = { policy: loaded.policy, conditions: loaded.conditions, tool: (name: string) => tools.get(name) };
  const calls = await rejudgeAll(await clientFor(context, 'operator'), filter, candidate);
  const report = replayReport(calls);
  const unknown_tools = [...new Set(calls.map(({ tool }) => tool))].filter((name) => tools.get(name) === undefined).sort();
  if (context.json) {
    printJson({ file, policy_hash: loaded.policy_hash, ...report, unknown_tools });
    return 0;
  }
  const { examples = EXAMPLES } = options;
  printReport(report);
  for (const change of report.changes) printChange(change, examples);
  if (unknown_tools.length > 0) tell(`note: no module of the file registers ${visible(unknown_tools.join(', '))}: ${AS_RECORDED}`);
  if (report.changes.some((change) => change.calls.length > examples)) tell(`all of them: ${context.command(`policy replay ${file}${again(options)} --json`)}`);
  return 0;
}

const AS_RECORDED = 'what was recorded of a tool counts, of one that nobody was asked about its kind alone';

const again = ({ since, run }: ReplayOptions): string => `${since === undefined ? '' : ` --since ${since}`}${run === undefined ? '' : ` --run ${run}`}`;

/** Page by page. Arguments are not kept: a history holds more of them than fit into memory. */
async function rejudgeAll(client: HoldpointClient, filter: { run: string | undefined; since: string | undefined }, candidate: Candidate): Promise<Rejudged[]> {
  const calls: Rejudged[] = [];
  let cursor: string | undefined;
  do {
    const page: RecordedCallsPage = await client.recordedCalls({ ...filter, limit: PAGE, cursor });
    for (const call of page.calls) calls.push(rejudge(candidate, call));
    cursor = page.next ?? undefined;
  } while (cursor !== undefined);
  return calls;
}

function printReport({ recorded, judged, unjudged, questions, newly, newly_allowed, unanswered }: ReplayReport): void {
  const cannot = recorded === judged ? '' : ` of ${recorded}; the arguments of the others: ${inWords(unjudged)}`;
  const without = unanswered.reduce((sum, { calls }) => sum + calls, 0);
  const [firstRule, ...otherRules] = unanswered.map(({ rule, problem, detail, calls }) =>
    visible(`${rule} on ${counted(calls, 'call')}: ${problem} (${detail})`),
  );
  printFields([
    ['calls judged', `${judged}${cannot}`],
    ['questions', `${questions.before} before, ${questions.now} now: ${questions.fewer} fewer, ${questions.more} more`],
    ['newly allowed', `${newly.allowed}${newly.allowed === 0 ? '' : `: ${fatesInWords(newly_allowed)}`}`],
    ['newly asked', String(newly.asked)],
    ['newly denied', String(newly.denied)],
    ['no answer', without === 0 ? undefined : `${counted(without, 'call')} decided by a condition without an answer`],
    ['', firstRule],
    ...otherRules.map((rule): [string, string] => ['', rule]),
  ]);
}

/** What people denied comes first: it is what a policy that asks less is held against. */
function printChange({ tool, before, now, fates, calls }: Change, examples: number): void {
  const [was, becomes] = [`${before.outcome} (${before.rule ?? 'no rule'})`, `${now.outcome} (${now.rule})`];
  print();
  print(`${styled('bold', visible(tool))}  ${visible(`${was} → ${becomes}`)}`);
  print(`  ${counted(calls.length, 'call')}: ${fatesInWords(fates)}`);
  const shown = calls.toSorted((a, b) => Number(b.answer === 'denied') - Number(a.answer === 'denied')).slice(0, examples);
  for (const { run_id, call_id, pending_id, at, answer } of shown)
    print(visible(`  ${at}  ${run_id} ${call_id}${pending_id === null ? '' : `  ${pending_id}`}${answer === null ? '' : `  ${answer}`}`));
  if (calls.length > shown.length) print(`  and ${calls.length - shown.length} more`);
}

function fatesInWords({ approved, denied, timed_out, cancelled, open, denied_by_policy, allowed }: Fates): string {
  const words = {
    'approved by people': approved,
    'denied by people': denied,
    'timed out': timed_out,
    cancelled,
    'still open': open,
    'denied by policy': denied_by_policy,
    'allowed by policy': allowed,
  };
  return inWords(words);
}

/** `2 erased, 1 altered`; what is none is left out. */
function inWords(counts: Readonly<Record<string, number>>): string {
  return Object.entries(counts)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${count} ${name}`)
    .join(', ');
}
