/** `holdpoint cancel` and `holdpoint kill`. */
import { HoldpointError } from '../../core/errors.ts';
import { clientFor, contextOf, type CommonOptions } from '../context.ts';
import { print, printJson, printTable, relative, styled, tell } from '../output.ts';
import { visible } from '../visible.ts';

export async function cancel(id: string, options: CommonOptions): Promise<number> {
  const context = contextOf(options);
  if (!id.startsWith('run_')) throw new HoldpointError('usage', `"${id}" is no run: their ids start with run_`);
  const run = await (await clientFor(context, 'operator')).cancelRun(id);
  if (context.json) printJson(run);
  else print(run.status === 'stopped' ? `${run.run_id} has ended: ${run.stop_reason ?? 'stopped'}` : `${run.run_id} is being cancelled`);
  if (!context.json) tell(context.command(`show ${run.run_id}`));
  return 0;
}

interface KillOptions extends CommonOptions {
  agent?: string;
  tool?: string;
  reason?: string;
}

export async function kill(state: string, options: KillOptions): Promise<number> {
  const context = contextOf(options);
  if (state !== 'on' && state !== 'off' && state !== 'status')
    throw new HoldpointError('usage', `kill takes on, off or status, not "${state}"`, { hint: context.command('kill status') });
  if (options.agent !== undefined && options.tool !== undefined) throw new HoldpointError('usage', 'give --agent or --tool, not both');
  return state === 'status' ? await killStatus(options) : await setKill(state === 'on', options);
}

async function setKill(engaged: boolean, options: KillOptions): Promise<number> {
  const context = contextOf(options);
  const { agent, tool, reason } = options;
  const client = await clientFor(context, 'operator');
  const control = await client.setControl({
    engaged,
    ...(agent === undefined ? {} : { agent }),
    ...(tool === undefined ? {} : { tool }),
    ...(reason === undefined ? {} : { reason }),
  });
  if (context.json) printJson(control);
  else
    print(
      engaged
        ? `${styled('red', 'kill switch on')}: ${visible(control.scope)}; nothing in it executes from now on`
        : `${styled('green', 'kill switch off')}: ${visible(control.scope)}`,
    );
  return 0;
}

async function killStatus(options: KillOptions): Promise<number> {
  const context = contextOf(options);
  const answer = await (await clientFor(context, 'operator')).controls();
  const scope = options.agent !== undefined ? `agent:${options.agent}` : options.tool !== undefined ? `tool:${options.tool}` : undefined;
  const controls = answer.controls.filter((control) => scope === undefined || control.scope === scope);
  if (context.json) {
    printJson({ ...answer, controls });
    return 0;
  }
  if (!answer.armed) print('the kill switch is disabled in holdpoint.yaml');
  const engaged = controls.filter((control) => control.engaged);
  if (engaged.length === 0) print(styled('green', 'the kill switch is off'));
  else {
    printTable(engaged, [
      { title: 'SCOPE', value: (control) => control.scope, style: () => 'red' },
      { title: 'SINCE', value: (control) => relative(control.changed_at) },
      { title: 'BY', value: (control) => control.changed_by, max: 30 },
      { title: 'REASON', value: (control) => control.reason ?? '', max: 80 },
    ]);
  }
  return 0;
}
