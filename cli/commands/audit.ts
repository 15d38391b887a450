/** `holdpoint audit list`, `verify`, `export`. */
import { createWriteStream, type ReadStream } from 'node:fs';
import { open } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import type { AuditPage, AuditReport } from '../../client/types.ts';
import type { AuditEvent } from '../../core/audit.ts';
import { ERROR_TABLE, HoldpointError, messageOf } from '../../core/errors.ts';
import { clientFor, contextOf, type CommonOptions } from '../context.ts';
import { counted, print, printJson, printTable, styled, tell } from '../output.ts';
import { visible } from '../visible.ts';

interface ListOptions extends CommonOptions {
  run?: string;
  since?: string;
  tool?: string;
  outcome?: string;
  limit?: number;
}

const PAGE = 200;

export async function list(options: ListOptions): Promise<number> {
  const context = contextOf(options);
  const client = await clientFor(context, 'operator');
  const { run, since, tool, outcome } = options;
  const filter = {
    ...(run === undefined ? {} : { run }),
    ...(since === undefined ? {} : { since: sinceTime(since) }),
    ...(tool === undefined ? {} : { tool }),
    ...(outcome === undefined ? {} : { outcome }),
  };
  const events: AuditEvent[] = [];
  const wanted = options.limit ?? Number.POSITIVE_INFINITY;
  let next: string | null = null;
  do {
    const page: AuditPage = await client.audit({ ...filter, limit: Math.min(PAGE, wanted - events.length), ...(next === null ? {} : { cursor: next }) });
    events.push(...page.events);
    next = page.next;
  } while (next !== null && events.length < wanted);
  if (context.json) printJson({ events, next });
  else printEvents(events);
  return 0;
}

function printEvents(events: AuditEvent[]): void {
  if (events.length === 0) return tell('no events');
  printTable(events, [
    { title: 'TIME', value: (event) => event.at.replace('T', ' ').replace('Z', '') },
    { title: 'RUN', value: (event) => `${event.run_id}#${event.seq}` },
    {
      title: 'OUTCOME',
      value: (event) => event.outcome,
      style: (event) => (/^(deny|approval_denied|approval_timeout|decision_rejected|kill_switch_engaged)$/.test(event.outcome) ? 'red' : undefined),
    },
    { title: 'TOOL', value: (event) => event.tool ?? '', max: 30 },
    { title: 'BY', value: (event) => event.approver ?? event.agent ?? '', max: 24 },
    {
      title: 'WHAT',
      value: (event) => [...new Set([event.result, event.reason, event.detail])].filter((part) => part !== null && part !== '').join(' · '),
      max: 100,
    },
  ]);
}

/** ISO 8601, or an age: `90s`, `10m`, `2h`, `7d`. */
export function sinceTime(text: string, now: number = Date.now()): string {
  const age = /^(\d{1,9})(s|m|h|d)$/.exec(text);
  const unit = { s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }[age?.[2] ?? ''];
  const time = age !== null && unit !== undefined ? now - Number(age[1]) * unit : /^\d{4}-\d{2}-\d{2}/.test(text) ? Date.parse(text) : Number.NaN;
  if (!Number.isFinite(time) || Math.abs(time) > 8.64e15)
    throw new HoldpointError('usage', `--since "${text}" is no time`, { hint: 'an ISO 8601 time such as 2026-01-31T12:00:00Z, or an age such as 10m, 2h, 7d' });
  return new Date(time).toISOString();
}

interface VerifyOptions extends CommonOptions {
  export?: string;
  run?: string;
  checkpoints?: string;
  jwks?: string;
}

export async function verify(options: VerifyOptions): Promise<number> {
  const context = contextOf(options);
  if (options.export === undefined && (options.run ?? options.checkpoints ?? options.jwks) !== undefined) {
    throw new HoldpointError('usage', '--run, --checkpoints and --jwks go with --export', {
      hint: 'without --export the whole trail in the database is verified',
    });
  }
  const report = options.export === undefined ? await (await clientFor(context, 'operator')).verifyAudit() : await verifyOffline(options.export, options);
  if (context.json) printJson(report);
  else printReport(report);
  return report.ok ? 0 : ERROR_TABLE.audit_broken.exit;
}

async function verifyOffline(file: string, options: VerifyOptions): Promise<AuditReport> {
  const { verifyExport } = await import('../../adapters/audit-verify.ts');
  if (options.jwks === undefined) tell('without --jwks the public keys in the export itself are believed: whoever wrote the export could have signed it');
  const lines = createInterface({ input: await openFile(file), crlfDelay: Number.POSITIVE_INFINITY });
  return await verifyExport(lines, { run: options.run, checkpointsFile: options.checkpoints, jwksFile: options.jwks });
}

async function openFile(file: string): Promise<ReadStream> {
  try {
    return (await open(file)).createReadStream({ encoding: 'utf8' });
  } catch (error) {
    throw new HoldpointError('usage', `${file} cannot be read: ${messageOf(error)}`, { cause: error });
  }
}

function printReport(report: AuditReport): void {
  const counts = `${counted(report.events, 'event')} in ${counted(report.runs, 'chain')}, ${counted(report.grants, 'signed grant')}, ${counted(report.checkpoints, 'checkpoint')}`;
  if (report.ok) print(`${styled('green', 'the audit trail verifies')}: ${counts}`);
  else print(`${styled('red', 'the audit trail does not verify')}: ${counted(report.findings.length, 'finding')} in ${counts}`);
  for (const finding of report.findings) print(`  ${styled('red', finding.kind)}  ${visible(finding.where)}: ${visible(finding.message)}`);
  print(
    report.sealed_until === null
      ? 'nothing is sealed yet: a cut at the end would not be seen'
      : `sealed until ${report.sealed_until}: a cut of what came later would not be seen yet`,
  );
}

export async function exportAll(options: CommonOptions & { run?: string; out?: string }): Promise<number> {
  const context = contextOf(options);
  const client = await clientFor(context, 'operator');
  const target = options.out === undefined ? process.stdout : createWriteStream(options.out, { mode: 0o600 });
  for await (const line of client.exportAudit(options.run === undefined ? {} : { run: options.run })) {
    if (!target.write(`${line}\n`)) await new Promise<void>((resolve) => target.once('drain', () => resolve()));
  }
  if (target !== process.stdout) await new Promise<void>((resolve) => target.end(() => resolve()));
  return 0;
}
