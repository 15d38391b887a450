/** `holdpoint demo`: three scenarios on the embedded stack, checked against the audit and the effects. */
import { readFile } from 'node:fs/promises';
import type { HoldpointClient } from '../../client/index.ts';
import type { RunView } from '../../client/types.ts';
import type { AuditEvent } from '../../core/audit.ts';
import { HoldpointError } from '../../core/errors.ts';
import { contextOf, localClient, type Context } from '../context.ts';
import { print, printJson, relative, styled, tell } from '../output.ts';
import { runningStack } from '../stack/state.ts';
import { visible } from '../visible.ts';
import { configFileOf, launch, type StackCommandOptions } from './launch.ts';
import { demoDatabaseRun, demoEmailRun, demoOutOfScopeRun } from './scenarios.ts';

interface Clients {
  operator: HoldpointClient;
  approver: HoldpointClient;
}

interface Finished {
  title: string;
  run: RunView;
  events: AuditEvent[];
  effects: Effect[];
  failures: string[];
}

interface Effect {
  tool: string;
  run_id: string;
}

const WAIT_SECONDS = 60;

export async function demo(options: StackCommandOptions): Promise<number> {
  const context = contextOf(options);
  const running = await runningStack(context.paths);
  if (running !== undefined && running.api_url === undefined)
    throw new HoldpointError('already_running', `the stack in ${context.paths.root} (pid ${running.pid}) is still starting`, {
      hint: 'try again in a few seconds',
    });
  if (running?.api_url !== undefined) {
    say(context, `using the stack that runs in ${context.paths.root}\n`);
    return await play(context, running.api_url);
  }
  const stack = await launch(context, options, configFileOf(options));
  const interrupted = stack.interrupted.then(() => 130);
  try {
    return await Promise.race([play(context, stack.addresses.api_url), interrupted]);
  } finally {
    tell('stopping the stack');
    await stack.stop();
  }
}

async function play(context: Context, url: string): Promise<number> {
  const clients = { operator: await localClient(context, 'operator', url), approver: await localClient(context, 'approver', url) };
  const finished = [await approved(context, clients), await unanswered(context, clients), await outOfScope(context, clients)];
  const report = await clients.operator.verifyAudit();
  if (context.json) {
    printJson({ ok: report.ok && finished.every((each) => each.failures.length === 0), scenarios: finished.map(summary), audit: report });
  } else {
    print(styled('bold', 'The audit trail'));
    print(
      report.ok
        ? `  ${tick()} verifies: ${report.events} events, ${report.grants} signed grants, ${report.checkpoints} checkpoints`
        : `  ${cross()} does not verify: ${report.findings.map((finding) => finding.message).join('; ')}`,
    );
    print(`  ${context.command('audit list')}`);
  }
  const good = report.ok && finished.every((each) => each.failures.length === 0);
  say(context, good ? `\n${styled('green', 'All three ended as they must.')}` : `\n${styled('red', 'Not all ended as they must.')}`);
  return good ? 0 : 1;
}

async function approved(context: Context, clients: Clients): Promise<Finished> {
  say(context, styled('bold', '1  A mail, approved in time'));
  const waiting = await start(context, clients, demoEmailRun());
  const request = waiting.pending[0];
  if (request === undefined) return await finish(context, clients, '1 approved', waiting, () => ['the mail did not wait for approval']);
  say(
    context,
    `   the run waits: ${request.pending_id}, ${visible(request.reason)}; expires ${relative(request.expires_at)}\n   ${context.command(`approve ${request.pending_id}`)}`,
  );
  const answer = await clients.approver.decide(request.pending_id, { outcome: 'approved', reason: 'demo' });
  say(context, `   ${answer.decision.approver} approved, signed as ${answer.decision.decision_id}`);
  return await finish(context, clients, '1 approved', waiting, ({ run, events, effects }) => [
    ...expectStop(run, 'completed'),
    ...expectOrder(events, ['approval_required', 'approval_granted', 'allow']),
    ...expectEffects(effects, 'email.send', 1),
  ]);
}

async function unanswered(context: Context, clients: Clients): Promise<Finished> {
  say(context, styled('bold', '2  A database write that nobody answers'));
  const waiting = await start(context, clients, demoDatabaseRun());
  const request = waiting.pending[0];
  if (request !== undefined) say(context, `   the run waits: ${request.pending_id}; expires ${relative(request.expires_at)}, and nobody answers`);
  return await finish(context, clients, '2 unanswered', waiting, ({ run, events, effects }) => [
    ...expectStop(run, 'approval_timeout'),
    ...expectOrder(events, ['approval_required', 'approval_timeout']),
    ...expectNone(events, ['allow', 'execution_started']),
    ...expectEffects(effects, 'db.write', 0),
  ]);
}

async function outOfScope(context: Context, clients: Clients): Promise<Finished> {
  say(context, styled('bold', '3  A write outside the allowed scope'));
  const run = await start(context, clients, demoOutOfScopeRun());
  return await finish(context, clients, '3 out of scope', run, ({ run: ended, events, effects }) => [
    ...expectStop(ended, 'policy_denied'),
    ...expectOrder(events, ['deny']),
    ...expectNone(events, ['approval_required', 'allow', 'execution_started']),
    ...expectEffects(effects, 'crm.delete_contact', 0),
  ]);
}

async function start(context: Context, clients: Clients, file: ReturnType<typeof demoEmailRun>): Promise<RunView> {
  const call = file.planner.type === 'script' ? file.planner.calls[0] : undefined;
  say(context, `   ${file.agent} calls ${call?.tool ?? ''} ${JSON.stringify(call?.args)}`);
  return await clients.operator.startRun(file, { wait: 30 });
}

async function finish(
  context: Context,
  clients: Clients,
  title: string,
  started: RunView,
  check: (facts: Omit<Finished, 'title' | 'failures'>) => string[],
): Promise<Finished> {
  const run = await clients.operator.getRun(started.run_id, { wait: WAIT_SECONDS, until: 'stopped' });
  const { events } = await clients.operator.audit({ run: run.run_id, limit: 100 });
  const effects = (await readEffects(context)).filter((effect) => effect.run_id === run.run_id);
  const failures = check({ run, events, effects });
  say(context, `   the run ended: ${run.stop_reason ?? run.status}${run.reason === undefined ? '' : ` (${visible(run.reason)})`}`);
  say(context, `   audit: ${events.map((event) => event.outcome).join(' → ')}`);
  say(context, `   effects: ${effects.length === 0 ? 'none' : effects.map((effect) => effect.tool).join(', ')}`);
  for (const failure of failures) say(context, `   ${cross()} ${failure}`);
  if (failures.length === 0) say(context, `   ${tick()} as it must be`);
  say(context, '');
  return { title, run, events, effects, failures };
}

function expectStop(run: RunView, reason: RunView['stop_reason']): string[] {
  return run.status === 'stopped' && run.stop_reason === reason ? [] : [`expected the stop reason ${reason ?? 'none'}, got ${run.stop_reason ?? run.status}`];
}

function expectOrder(events: AuditEvent[], outcomes: string[]): string[] {
  let from = 0;
  for (const outcome of outcomes) {
    const found = events.findIndex((event, index) => index >= from && event.outcome === outcome);
    if (found === -1) return [`the audit should read ${outcomes.join(', ')}; ${outcome} is missing`];
    from = found + 1;
  }
  return [];
}

function expectNone(events: AuditEvent[], outcomes: string[]): string[] {
  return events.filter((event) => outcomes.includes(event.outcome)).map((event) => `the audit has an unexpected ${event.outcome}`);
}

function expectEffects(effects: Effect[], tool: string, count: number): string[] {
  const others = effects.filter((effect) => effect.tool !== tool).length;
  return effects.length - others === count && others === 0
    ? []
    : [`expected ${count} effect(s) of ${tool}, found ${effects.map((effect) => effect.tool).join(', ') || 'none'}`];
}

async function readEffects(context: Context): Promise<Effect[]> {
  const text = await readFile(context.paths.effects, 'utf8').catch(() => '');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Effect);
}

function summary(finished: Finished): Record<string, unknown> {
  return {
    scenario: finished.title,
    run_id: finished.run.run_id,
    stop_reason: finished.run.stop_reason,
    audit: finished.events.map((event) => event.outcome),
    effects: finished.effects.map((effect) => effect.tool),
    failures: finished.failures,
  };
}

function say(context: Context, line: string): void {
  if (!context.json) print(line);
}

const tick = (): string => styled('green', 'ok');
const cross = (): string => styled('red', 'failed');
