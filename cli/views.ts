/** Runs and requests, as a person reads them. */
import type { ApprovalView, RunView } from '../client/types.ts';
import type { Context } from './context.ts';
import { counted, print, printFields, printTable, relative, styled } from './output.ts';
import { visible } from './visible.ts';

const shown = (text: string | null | undefined): string | undefined => (text === null || text === undefined || text === '' ? undefined : visible(text));

/** A run: where it stands, its calls, what it waits for. */
export function printRun(run: RunView, context: Context): void {
  printFields([
    ['run_id', styled('bold', run.run_id)],
    ['status', colouredStatus(run)],
    ['stop_reason', run.stop_reason ?? undefined],
    ['reason', shown(run.reason)],
    ['pending_id', run.pending_id ?? undefined],
    ['agent', shown(run.agent)],
    ['owner', shown(run.owner)],
    ['requester', run.requester === null ? undefined : `${visible(run.requester)} (as the owner says)`],
    ['goal', shown(run.goal)],
    ['started', `${relative(run.created_at)} (${run.created_at})`],
    ['ended', run.stopped_at === null ? undefined : `${relative(run.stopped_at)} (${run.stopped_at})`],
    [
      'used',
      `${counted(run.usage.steps, 'step')}, ${counted(run.usage.tool_calls, 'call')}, ${run.usage.active_seconds} s active${run.usage.usd > 0 ? `, ${run.usage.usd} USD` : ''}`,
    ],
    ['web', run.temporal_web ?? undefined],
  ]);
  if (run.calls.length > 0) {
    print();
    printTable(run.calls, [
      { title: 'CALL', value: (call) => call.call_id },
      { title: 'TOOL', value: (call) => call.tool, max: 40 },
      { title: 'STATUS', value: (call) => (call.result === 'error' ? `${call.status} (error)` : call.status) },
      { title: 'REASON', value: (call) => call.reason ?? '', max: 100 },
    ]);
  }
  for (const request of run.pending) {
    print(`\n${styled('yellow', 'waits for approval')}  ${visible(request.preview)}\n  ${visible(request.reason)}; expires ${relative(request.expires_at)}`);
    print(`  ${styled('cyan', context.command(`approve ${request.pending_id}`))}\n  ${styled('cyan', context.command(`deny ${request.pending_id}`))}`);
  }
}

function colouredStatus(run: RunView): string {
  if (run.status !== 'stopped') return styled('yellow', run.status);
  return styled(run.stop_reason === 'completed' ? 'green' : 'red', run.status);
}

/** A request, with everything that will be executed. */
export function printApproval(request: ApprovalView, context: Context): void {
  printFields([
    ['pending_id', styled('bold', request.pending_id)],
    ['status', request.status === 'open' ? styled('yellow', 'open') : request.status],
    ['tool', `${visible(request.tool)} (${request.kind})`],
    ['summary', `${visible(request.preview)}${styled('dim', '  made by the worker')}`],
    ['why asked', shown(request.reason)],
    ['rule', `${visible(request.rule)}, tier ${visible(request.tier)}`],
    ['agent', shown(request.agent)],
    ['agent says', shown(request.agent_reason)],
    ['owner', shown(request.owner)],
    ['requester', request.requester === null ? undefined : `${visible(request.requester)} (as the owner says)`],
    ['run', `${request.run_id}, call ${request.call_id}`],
    ['asked', `${relative(request.created_at)} (${request.created_at})`],
    ['expires', `${relative(request.expires_at)} (${request.expires_at})`],
    ['usable until', request.usable_until ?? undefined],
    ['votes', request.quorum === 1 ? undefined : `${request.quorum - request.missing} of ${request.quorum}`],
    ['args_hash', request.args_hash],
  ]);
  print(`\n${styled('bold', 'Arguments')} ${styled('dim', `(${request.args_bytes} bytes, exactly what will be executed)`)}`);
  print(visible(request.args_text, { multiline: true }).replace(/^/gm, '  '));
  for (const vote of request.votes) {
    print(
      `\n${styled(vote.outcome === 'approved' ? 'green' : 'red', vote.outcome)} by ${visible(vote.approver)} ${relative(vote.decided_at)} (${vote.decision_id})${vote.reason === null ? '' : `: ${visible(vote.reason)}`}`,
    );
  }
  if (request.status === 'open')
    print(
      `\n  ${styled('cyan', context.command(`approve ${request.pending_id}`))}\n  ${styled('cyan', context.command(`deny ${request.pending_id} --reason "..."`))}`,
    );
}
