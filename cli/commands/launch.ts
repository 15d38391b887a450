/** Starting the embedded stack from a command: configuration first, progress while it comes up, one clean way to stop. */
import { access } from 'node:fs/promises';
import { resolve } from 'node:path';
import { HoldpointError } from '../../core/errors.ts';
import type { CommonOptions, Context } from '../context.ts';
import { startProgress, tell } from '../output.ts';
import { EMBEDDED_CONFIG, startStack, type Stack } from '../stack/stack.ts';

export interface StackCommandOptions extends CommonOptions {
  temporalPort: number;
  webPort: number;
  apiPort: number;
  config?: string;
}

export interface Launched extends Stack {
  /** Resolves with the signal that asked the command to end. */
  interrupted: Promise<NodeJS.Signals>;
}

const STOP_SIGNALS: NodeJS.Signals[] = ['SIGINT', 'SIGTERM', 'SIGHUP'];
/** 128 + SIGINT: what a shell expects of a command that was interrupted before it had done its work. */
const INTERRUPTED = 130;

/** Starts the stack. A signal while it starts stops what is there and ends the process. */
export async function launch(context: Context, options: StackCommandOptions, configFile: string): Promise<Launched> {
  refuseSamePorts(options);
  await checkConfig(configFile);
  const progress = startProgress();
  let stopSoFar: () => Promise<void> = async () => {};
  let ready = false;
  let abandoned = false;
  const interrupted = new Promise<NodeJS.Signals>((resolveSignal) => {
    const heard = (signal: NodeJS.Signals): void => {
      if (ready) return resolveSignal(signal);
      if (abandoned) return;
      abandoned = true;
      progress.done();
      tell('stopping');
      void stopSoFar().finally(() => process.exit(INTERRUPTED));
    };
    for (const signal of STOP_SIGNALS) process.on(signal, heard);
  });
  try {
    const settings = {
      paths: context.paths,
      temporalPort: options.temporalPort,
      webPort: options.webPort,
      apiPort: options.apiPort,
      configFile,
      env: process.env,
    };
    const stack = await startStack(settings, progress.report, (stop) => (stopSoFar = stop));
    // The last part came up while a signal stops the first: the process ends when all are down.
    if (abandoned) await new Promise(() => {});
    ready = true;
    return { ...stack, interrupted };
  } finally {
    progress.done();
  }
}

/** `--config`, else HOLDPOINT_CONFIG, else the shipped file. */
export function configFileOf(options: { config?: string }): string {
  const given = options.config ?? process.env.HOLDPOINT_CONFIG;
  return given === undefined || given === '' ? EMBEDDED_CONFIG : resolve(given);
}

/** Before anything is started: a file that can't be used is the user's to mend. */
async function checkConfig(file: string): Promise<void> {
  if (!(await exists(file))) throw new HoldpointError('invalid_config', `${file} does not exist`, { hint: 'give the path of a holdpoint.yaml with --config' });
  const { loadPolicyFile } = await import('../../adapters/policy-file.ts');
  await loadPolicyFile(file);
}

async function exists(file: string): Promise<boolean> {
  return await access(file).then(
    () => true,
    () => false,
  );
}

function refuseSamePorts(options: StackCommandOptions): void {
  const fixed = [options.temporalPort, options.webPort, options.apiPort].filter((port) => port !== 0);
  if (new Set(fixed).size < fixed.length)
    throw new HoldpointError('usage', '--temporal-port, --web-port and --api-port must differ', { hint: 'port 0 picks a free one' });
}
