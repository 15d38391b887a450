/** `holdpoint pending`, `show`, `approve`, `deny`. */
import { HoldpointError } from '../../core/errors.ts';
import { clientFor, contextOf, type CommonOptions } from '../context.ts';
import { print, printJson, printTable, relative, styled, tell } from '../output.ts';
import { printApproval, printRun } from '../views.ts';
import { visible } from '../visible.ts';

export async function pending(options: CommonOptions & { run?: string; limit?: number }): Promise<number> {
  const context = contextOf(options);
  const client = await clientFor(context, 'approver');
  const query = {
    status: 'open' as const,
    ...(options.run === undefined ? {} : { run: options.run }),
    ...(options.limit === undefined ? {} : { limit: options.limit }),
  };
  const approvals = await client.listApprovals(query);
  if (context.json) {
    printJson({ approvals });
    return 0;
  }
  if (approvals.length === 0) {
    tell('nothing waits');
    return 0;
  }
  printTable(approvals, [
    { title: 'REQUEST', value: (row) => row.pending_id },
    { title: 'EXPIRES', value: (row) => relative(row.expires_at), style: (row) => (row.remaining_ms < 60_000 ? 'red' : undefined) },
    { title: 'AGENT', value: (row) => row.agent, max: 24 },
    { title: 'TOOL', value: (row) => row.tool, max: 30 },
    { title: 'WHAT', value: (row) => row.preview, max: 72 },
  ]);
  tell(`\n${context.command('show ID')} has the arguments; then approve ID or deny ID`);
  return 0;
}

export async function show(id: string, options: CommonOptions): Promise<number> {
  const context = contextOf(options);
  if (!id.startsWith('run_') && !id.startsWith('apr_'))
    throw new HoldpointError('usage', `"${id}" is neither a run (run_…) nor an approval request (apr_…)`, { hint: context.command('pending') });
  if (id.startsWith('run_')) {
    const run = await (await clientFor(context, 'operator')).getRun(id);
    if (context.json) printJson(run);
    else printRun(run, context);
    return 0;
  }
  const request = await (await clientFor(context, 'approver')).getApproval(id);
  if (context.json) printJson(request);
  else printApproval(request, context);
  return 0;
}

export async function decide(outcome: 'approved' | 'denied', id: string, options: CommonOptions & { reason?: string }): Promise<number> {
  const context = contextOf(options);
  if (!id.startsWith('apr_'))
    throw new HoldpointError('usage', `"${id}" is no approval request: their ids start with apr_`, { hint: context.command('pending') });
  const client = await clientFor(context, 'approver');
  const answer = await client.decide(id, { outcome, ...(options.reason === undefined ? {} : { reason: options.reason }) });
  if (context.json) {
    printJson(answer);
    return 0;
  }
  const by = `by ${visible(answer.decision.approver)}`;
  if (answer.status === 'already_decided')
    print(`${answer.pending_id} was ${answer.decision.outcome} before, ${by}, ${relative(answer.decision.decided_at)}; nothing changed`);
  else print(`${styled(outcome === 'approved' ? 'green' : 'red', outcome)}  ${answer.pending_id} ${by} (${answer.decision.decision_id})`);
  if (answer.status === 'quorum_pending') print(`${answer.missing} more ${answer.missing === 1 ? 'approval is' : 'approvals are'} needed`);
  tell(context.command(`show ${answer.run_id}`));
  return 0;
}
