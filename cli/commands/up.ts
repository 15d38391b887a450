/** `holdpoint up`: the embedded stack in the foreground. */
import { access } from 'node:fs/promises';
import { contextOf, localClient, type Context } from '../context.ts';
import { relative, print, printFields, printJson, styled, tell } from '../output.ts';
import { LOCAL_IDENTITIES } from '../stack/identities.ts';
import { EMBEDDED_CONFIG, type StackAddresses } from '../stack/stack.ts';
import { configFileOf, launch, type StackCommandOptions } from './launch.ts';
import { demoEmailRun } from './scenarios.ts';
import { visible } from '../visible.ts';

export async function up(options: StackCommandOptions & { demoRun?: boolean }): Promise<number> {
  const context = contextOf(options);
  const configFile = configFileOf(options);
  const stack = await launch(context, options, configFile);
  if (context.json) printJson(stack.addresses);
  else await welcome(context, stack.addresses, configFile);
  if (options.demoRun === true) await startDemoRun(context, stack.addresses.api_url);
  if (!context.json) print(styled('dim', '\nCtrl-C stops everything; the state stays.'));
  await stack.interrupted;
  tell('stopping');
  await stack.stop();
  tell('stopped');
  return 0;
}

async function welcome(context: Context, addresses: StackAddresses, configFile: string): Promise<void> {
  print(`${styled('green', 'Holdpoint is up.')}\n`);
  printFields([
    ['API', addresses.api_url],
    ['Temporal', addresses.temporal_address],
    ['Temporal Web', addresses.temporal_web ?? undefined],
    ['PostgreSQL', withoutPassword(addresses.database_url)],
    ['policy', configFile === EMBEDDED_CONFIG ? 'the shipped one (--config FILE for your own)' : configFile],
    ['state', addresses.state_dir],
  ]);
  if (configFile === EMBEDDED_CONFIG && (await exists('holdpoint.yaml')))
    tell('\nholdpoint.yaml in this folder is not in use; start with --config holdpoint.yaml to use it.');
  print(`
Two identities were made for this machine, with keys of their own: ${LOCAL_IDENTITIES.operator} (run, cancel,
kill) and ${LOCAL_IDENTITIES.approver} (approve, deny). ${styled('bold', 'Both are you')}: here nobody else checks your approvals.

In another terminal:`);
  printFields(
    [
      [context.command('run FILE'), 'start a run'],
      [context.command('pending'), 'what waits for you'],
      [context.command('demo'), 'the three scenarios on this stack'],
      [context.command('audit verify'), 'check the audit trail'],
    ].map(([name, value]) => [`  ${name}`, value] as const),
  );
}

/** A run whose mail waits, so that there is something to approve. */
async function startDemoRun(context: Context, apiUrl: string): Promise<void> {
  const client = await localClient(context, 'operator', apiUrl);
  const run = await client.startRun(demoEmailRun(), { wait: 20 });
  const request = run.pending[0];
  if (context.json) {
    tell(request === undefined ? `demo run ${run.run_id}: ${run.status}` : `demo run ${run.run_id} waits: ${context.command(`approve ${request.pending_id}`)}`);
    return;
  }
  if (request === undefined) {
    print(`\nThe demo run ${run.run_id} does not wait: ${run.stop_reason ?? run.status}${run.reason === undefined ? '' : `, ${visible(run.reason)}`}`);
    return;
  }
  print(`
${styled('bold', 'A demo run waits for you:')} ${run.run_id}
  ${visible(request.preview)}
  ${visible(request.reason)}; expires ${relative(request.expires_at)}

  ${styled('cyan', context.command(`show ${request.pending_id}`))}
  ${styled('cyan', context.command(`approve ${request.pending_id}`))}
  ${styled('cyan', context.command(`deny ${request.pending_id} --reason "not today"`))}`);
  if (run.temporal_web !== null) print(`\n  The run in Temporal Web: ${run.temporal_web}`);
}

function withoutPassword(url: string): string {
  const parsed = new URL(url);
  parsed.password = '';
  return parsed.href;
}

async function exists(file: string): Promise<boolean> {
  return await access(file).then(
    () => true,
    () => false,
  );
}
