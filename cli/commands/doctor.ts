/** `holdpoint doctor`: what is missing, and the command that mends it. */
import { readFile, stat } from 'node:fs/promises';
import { messageOf, isHoldpointError } from '../../core/errors.ts';
import { clientFor, contextOf, type CommonOptions, type Context } from '../context.ts';
import { print, printJson, styled } from '../output.ts';
import { abandonedHomes, postgresPrograms, postgresUser } from '../stack/postgres-user.ts';
import { runningStack, type StackFile } from '../stack/state.ts';
import { findTemporal, TEMPORAL_CLI_VERSION } from '../stack/temporal-binary.ts';
import { SEARCH_ATTRIBUTES } from '../../core/words.ts';
import { visible } from '../visible.ts';

/** `missing` fails the command, `note` does not. */
interface Finding {
  part: string;
  status: 'ok' | 'note' | 'missing';
  found: string;
  /** Command that mends it. */
  mend?: string;
}

export async function doctor(options: CommonOptions): Promise<number> {
  const context = contextOf(options);
  const stack = await runningStack(context.paths);
  const findings = [
    checkNode(),
    await checkTemporal(),
    await checkPostgres(),
    await checkStateDir(context),
    ...(await checkAbandoned()),
    checkStack(context, stack),
    ...(await checkApi(context, stack)),
    ...(await checkSearchAttributes(stack)),
  ];
  const healthy = findings.every((finding) => finding.status !== 'missing');
  if (context.json) printJson({ ok: healthy, checks: findings });
  else for (const finding of findings) printFinding(finding);
  return healthy ? 0 : 1;
}

function printFinding(finding: Finding): void {
  const mark = { ok: styled('green', 'ok     '), note: styled('yellow', 'note   '), missing: styled('red', 'missing') }[finding.status];
  print(`${mark}  ${finding.part.padEnd(18)}  ${visible(finding.found)}`);
  if (finding.mend !== undefined) print(`${' '.repeat(29)}${styled('cyan', finding.mend)}`);
}

function checkNode(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  const good = major > 20 || (major === 20 && minor >= 19);
  return {
    part: 'Node.js',
    status: good ? 'ok' : 'missing',
    found: process.versions.node,
    ...(good ? {} : { mend: 'install Node.js 20.19 or later: https://nodejs.org' }),
  };
}

async function checkTemporal(): Promise<Finding> {
  const part = 'Temporal CLI';
  if (process.env.TEMPORAL_ADDRESS) return { part, status: 'ok', found: `not needed: TEMPORAL_ADDRESS is ${process.env.TEMPORAL_ADDRESS}` };
  const program = await findTemporal();
  if (program !== undefined) return { part, status: 'ok', found: program };
  return {
    part,
    status: 'note',
    found: 'not there yet; `up` downloads it or builds it with Go',
    mend: `go install github.com/temporalio/cli/cmd/temporal@v${TEMPORAL_CLI_VERSION}`,
  };
}

async function checkPostgres(): Promise<Finding> {
  const part = 'PostgreSQL';
  if (process.env.DATABASE_URL) return { part, status: 'ok', found: 'not needed: DATABASE_URL is set' };
  try {
    return { part, status: 'ok', found: await postgresPrograms(await postgresUser()) };
  } catch (error) {
    return { part, status: 'missing', found: messageOf(error), mend: isHoldpointError(error) && error.hint !== undefined ? error.hint : 'npm ci' };
  }
}

async function checkStateDir(context: Context): Promise<Finding> {
  const part = 'state directory';
  const folder = await stat(context.paths.root).catch(() => undefined);
  if (folder === undefined) return { part, status: 'note', found: `${context.paths.root} does not exist yet`, mend: context.command('up') };
  if ((folder.mode & 0o077) !== 0)
    return { part, status: 'missing', found: `${context.paths.root} can be read by others`, mend: `chmod 700 ${context.paths.root}` };
  const elsewhere = (await readFile(`${context.paths.postgres}/location`, 'utf8').catch(() => '')).trim();
  return { part, status: 'ok', found: elsewhere === '' ? context.paths.root : `${context.paths.root} (database in ${elsewhere})` };
}

async function checkAbandoned(): Promise<Finding[]> {
  const homes = await abandonedHomes();
  return homes.map(({ home, stateFolder }) => ({
    part: 'old database',
    status: 'note',
    found: `${home} belongs to ${stateFolder}, which is gone`,
    mend: `rm -r ${home}`,
  }));
}

function checkStack(context: Context, stack: StackFile | undefined): Finding {
  const part = 'local stack';
  if (stack === undefined) return { part, status: 'note', found: 'does not run', mend: context.command('up') };
  return { part, status: 'ok', found: `pid ${stack.pid}, ${stack.status}` };
}

async function checkApi(context: Context, stack: StackFile | undefined): Promise<Finding[]> {
  if (stack?.api_url === undefined && !process.env.HOLDPOINT_URL) return [];
  const part = 'API';
  try {
    await (await clientFor(context, 'operator')).controls();
    return [{ part, status: 'ok', found: process.env.HOLDPOINT_URL ?? stack?.api_url ?? '' }];
  } catch (error) {
    return [
      { part, status: 'missing', found: messageOf(error), mend: isHoldpointError(error) && error.hint !== undefined ? error.hint : context.command('up') },
    ];
  }
}

async function checkSearchAttributes(stack: StackFile | undefined): Promise<Finding[]> {
  const address = process.env.TEMPORAL_ADDRESS ?? stack?.temporal_address;
  if (address === undefined) return [];
  const part = 'search attributes';
  const { loadClientConnectConfig } = await import('@temporalio/envconfig');
  const { Connection } = await import('@temporalio/client');
  try {
    const { connectionOptions, namespace = 'default' } = process.env.TEMPORAL_ADDRESS ? loadClientConnectConfig() : { connectionOptions: { address } };
    const connection = await Connection.connect({ ...connectionOptions, connectTimeout: '5s' });
    const answer = await connection.operatorService.listSearchAttributes({ namespace });
    await connection.close();
    const missing = Object.values(SEARCH_ATTRIBUTES).filter((name) => !(name in (answer.customAttributes ?? {})));
    if (missing.length === 0) return [{ part, status: 'ok', found: Object.values(SEARCH_ATTRIBUTES).join(', ') }];
    const flags = missing.map((name) => `--name ${name} --type Keyword`).join(' ');
    return [
      {
        part,
        status: 'note',
        found: `${missing.join(', ')} are not registered; runs work without them`,
        mend: `temporal operator search-attribute create --address ${address} --namespace ${namespace} ${flags}`,
      },
    ];
  } catch (error) {
    return [{ part, status: 'missing', found: `no answer from Temporal at ${address}: ${messageOf(error)}` }];
  }
}
