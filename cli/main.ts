#!/usr/bin/env node
/** `holdpoint`. Commands are loaded when they are used, so that `--help` is quick. */
import { readFileSync } from 'node:fs';
import { Command, CommanderError, InvalidArgumentError } from 'commander';
import { reportFailure } from './failure.ts';

const program = new Command('holdpoint');

function version(): string {
  const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string };
  return manifest.version;
}

function port(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value > 65_535) throw new InvalidArgumentError('A port is a number from 0 to 65535; 0 picks a free one.');
  return value;
}

function seconds(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value) || value < 0) throw new InvalidArgumentError('A number of seconds is expected.');
  return value;
}

function count(text: string): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < 1) throw new InvalidArgumentError('A number from 1 is expected.');
  return value;
}

/** A command with the options that all have. */
function command(parent: Command, signature: string, description: string): Command {
  return parent
    .command(signature)
    .description(description)
    .option('--state-dir <dir>', 'where the local stack keeps its state (default ".holdpoint", env HOLDPOINT_STATE_DIR)')
    .option('--json', 'machine-readable output');
}

function stackOptions(target: Command): Command {
  return target
    .option('--temporal-port <port>', 'port of the Temporal server, 0 = any', port, 7233)
    .option('--web-port <port>', 'port of Temporal Web, 0 = any', port, 8233)
    .option('--api-port <port>', 'port of the API, 0 = any', port, 7390)
    .option('--config <file>', 'holdpoint.yaml (default: the shipped one, env HOLDPOINT_CONFIG)');
}

program
  .version(version(), '-V, --version')
  .description('Durable human approval for the write actions of AI agents, on Temporal.')
  .option('--state-dir <dir>', 'where the local stack keeps its state (default ".holdpoint", env HOLDPOINT_STATE_DIR)')
  .option('--json', 'machine-readable output')
  .showHelpAfterError('(add --help for usage)')
  .showSuggestionAfterError()
  .addHelpText(
    'after',
    `
First steps:
  holdpoint demo                 three scenarios, from first call to audit
  holdpoint up                   the whole stack on this machine
  holdpoint run FILE             start a run; then: pending, show ID, approve ID

Exit codes:
  0 done                1 error or conflict       2 usage or invalid file
  3 denied              4 not allowed             5 not found
  6 nobody answered     7 server unreachable      8 kill switch or budget
  9 cancelled         124 --timeout passed`,
  );

stackOptions(command(program, 'up', 'run the whole stack here: Temporal with its web UI, PostgreSQL, worker, API'))
  .option('--demo-run', 'also start one run that waits for your approval')
  .action(async (_options, self: Command) => done(await (await import('./commands/up.ts')).up(self.optsWithGlobals())));

stackOptions(command(program, 'demo', 'three scenarios: approved, nobody answers, outside the scope')).action(async (_options, self: Command) =>
  done(await (await import('./commands/demo.ts')).demo(self.optsWithGlobals())),
);

command(program, 'run', 'start a run and say how it stands as soon as it stops or waits')
  .argument('<file>', 'run file, JSON or YAML; - reads stdin')
  .option('--wait', 'wait until the run has ended')
  .option('--timeout <seconds>', 'give up waiting after this time (exit code 124); the run goes on', seconds)
  .option('--idempotency-key <key>', 'the same key starts the same run once')
  .action(async (file: string, _options, self: Command) => done(await (await import('./commands/run.ts')).run(file, self.optsWithGlobals())));

command(program, 'pending', 'what waits for a decision')
  .option('--run <run>', 'of this run only')
  .option('--limit <n>', 'at most so many', count)
  .action(async (_options, self: Command) => done(await (await import('./commands/inbox.ts')).pending(self.optsWithGlobals())));

command(program, 'show', 'a run or an approval request')
  .argument('<id>', 'run_… or apr_…')
  .action(async (id: string, _options, self: Command) => done(await (await import('./commands/inbox.ts')).show(id, self.optsWithGlobals())));

for (const [name, description] of [
  ['approve', 'approve a request, as the configured approver'],
  ['deny', 'deny a request, as the configured approver'],
] as const) {
  command(program, name, description)
    .argument('<id>', 'apr_…')
    .option('--reason <text>', 'why; kept in the audit')
    .action(async (id: string, _options, self: Command) =>
      done(await (await import('./commands/inbox.ts')).decide(name === 'approve' ? 'approved' : 'denied', id, self.optsWithGlobals())),
    );
}

command(program, 'cancel', 'cancel a run; its open requests are closed')
  .argument('<run>', 'run_…')
  .action(async (id: string, _options, self: Command) => done(await (await import('./commands/control.ts')).cancel(id, self.optsWithGlobals())));

command(program, 'kill', 'the kill switch: on, off, status')
  .argument('<state>', 'on, off or status')
  .option('--agent <name>', 'for this agent only')
  .option('--tool <name>', 'for this tool only')
  .option('--reason <text>', 'why; kept in the audit')
  .action(async (state: string, _options, self: Command) => done(await (await import('./commands/control.ts')).kill(state, self.optsWithGlobals())));

const audit = program.command('audit').description('the audit trail: list, verify, export');
const filtered = (target: Command): Command =>
  target.option('--run <run>', 'of this run').option('--since <time>', 'from this time on: ISO 8601, or an age such as 10m, 2h, 7d');
filtered(command(audit, 'list', 'events, oldest first'))
  .option('--tool <name>', 'of this tool')
  .option('--outcome <name>', 'for example allow, deny, approval_granted')
  .option('--limit <n>', 'at most so many', count)
  .action(async (_options, self: Command) => done(await (await import('./commands/audit.ts')).list(self.optsWithGlobals())));
command(audit, 'verify', 'check chains, checkpoints and the signature in every grant')
  .option('--export <file>', 'check an export instead of the database')
  .option('--run <run>', 'with --export: it was made of this run alone')
  .option('--checkpoints <file>', 'with --export: checkpoints.jsonl kept elsewhere')
  .option('--jwks <file>', 'with --export: public keys that you trust')
  .action(async (_options, self: Command) => done(await (await import('./commands/audit.ts')).verify(self.optsWithGlobals())));
command(audit, 'export', 'events, checkpoints and public keys as NDJSON')
  .option('--run <run>', 'of this run')
  .option('--out <file>', 'write there instead of stdout')
  .action(async (_options, self: Command) => done(await (await import('./commands/audit.ts')).exportAll(self.optsWithGlobals())));

const policy = program.command('policy').description('the policy: check, explain, test, replay');
command(policy, 'check', 'read holdpoint.yaml and say what is wrong, with line and column')
  .argument('[file]', 'default: holdpoint.yaml, else the shipped one')
  .option('--strict', 'warnings are errors')
  .action(async (file: string | undefined, _options, self: Command) => done(await (await import('./commands/policy.ts')).check(file, self.optsWithGlobals())));
command(policy, 'explain', 'say why a call gets its outcome')
  .argument('<call>', 'the call, JSON or YAML: {tool, args, agent, owner, ...}; - reads stdin')
  .argument('[file]', 'default: holdpoint.yaml, else the shipped one')
  .action(async (call: string, file: string | undefined, _options, self: Command) =>
    done(await (await import('./commands/policy.ts')).explain(call, file, self.optsWithGlobals())),
  );
command(policy, 'test', 'check that calls get the outcomes that fixture files expect')
  .argument('<files...>', 'YAML: {policy, cases: [{name, call, expect}]}')
  .action(async (files: string[], _options, self: Command) => done(await (await import('./commands/policy.ts')).test(files, self.optsWithGlobals())));
filtered(command(policy, 'replay', 'what a policy would have made of the recorded calls'))
  .argument('<file>', 'the policy that is tried')
  .option('--examples <n>', 'at most so many calls of each change (default 5)', count)
  .action(async (file: string, _options, self: Command) => done(await (await import('./commands/policy-replay.ts')).replay(file, self.optsWithGlobals())));

command(program, 'migrate', 'bring a database to the newest schema and make the roles of worker and serve').action(async (_options, self: Command) =>
  done(await (await import('./commands/migrate.ts')).migrate(self.optsWithGlobals())),
);
command(program, 'worker', 'the worker process: runs workflows, calls tools').action(async () => (await import('../worker/main.ts')).runWorker());
command(program, 'serve', 'the API process: decisions, signing, audit').action(async () => (await import('../server/main.ts')).runServer());

command(program, 'doctor', 'what is missing, and the command that mends it').action(async (_options, self: Command) =>
  done(await (await import('./commands/doctor.ts')).doctor(self.optsWithGlobals())),
);

function done(exitCode: number): void {
  process.exitCode = exitCode;
}

/** `exitOverride` is not inherited by commands that exist already. */
function throwInsteadOfExit(target: Command): void {
  target.exitOverride();
  for (const child of target.commands) throwInsteadOfExit(child);
}

// A reader that went away (`| head`) is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => process.exit(error.code === 'EPIPE' ? 0 : 1));
process.stderr.on('error', () => {});
throwInsteadOfExit(program);
// A failure's hint names commands of the same stack.
let stateDir: string | undefined;
program.hook('preAction', (_program, action) => {
  stateDir = action.optsWithGlobals<{ stateDir?: string }>().stateDir;
});
try {
  await program.parseAsync();
} catch (error) {
  if (error instanceof CommanderError) process.exitCode = error.exitCode === 0 ? 0 : 2;
  else process.exitCode = await reportFailure(error, process.argv.includes('--json'), (await import('./context.ts')).commandsOf(stateDir));
}
leave();

/** The work is done: whatever still keeps the process open, the channel to a parent say, is not waited for, what is written is. */
function leave(): void {
  if (process.connected) process.disconnect();
  const timer = setInterval(() => {
    if (process.stdout.writableLength === 0 && process.stderr.writableLength === 0) process.exit();
  }, 200);
  timer.unref();
}
