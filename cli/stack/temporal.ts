/** The embedded Temporal server: Temporal's own dev server, loopback only, with settings that suit one machine. */
import { spawn, type ChildProcess } from 'node:child_process';
import { openSync, closeSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { HoldpointError, isHoldpointError, messageOf } from '../../core/errors.ts';
import { SEARCH_ATTRIBUTES } from '../../core/words.ts';
import { freePorts } from './ports.ts';
import { waitUntil } from './processes.ts';

/** One history shard polls 20 times a second by default: 50 ms for each step. One task-queue partition: no burst stalls. */
const DYNAMIC_CONFIG = [
  'system.enableActivityEagerExecution=true',
  'history.transferProcessorMaxPollRPS=2000',
  'history.timerProcessorMaxPollRPS=2000',
  'history.visibilityProcessorMaxPollRPS=2000',
  'matching.numTaskqueueReadPartitions=1',
  'matching.numTaskqueueWritePartitions=1',
];

/**
 * A write-ahead log that is flushed at its checkpoints: less than half of the server's CPU, and of the time from a decision to the tool.
 * Nothing is lost when a process is killed. When the machine itself goes down the last moments may be: the file is whole all the
 * same, and the ledger, which flushes each commit, decides what counts.
 */
const SQLITE = ['journal_mode=wal', 'synchronous=1'];

const RETENTION_DAYS = 30;
const ATTEMPTS = 4;

export interface TemporalOptions {
  program: string;
  port: number;
  webPort: number;
  /** SQLite file; absent = in memory. */
  dbFile?: string;
  /** Its output goes there. */
  logFile: string;
  /** False: a namespace without our search attributes. Default true. */
  searchAttributes?: boolean;
}

export interface TemporalServer {
  process: ChildProcess;
  port: number;
  webPort: number;
  address: string;
  web: string;
}

/** Starts the server and waits until its namespace answers. When that fails, nothing is left running. */
export async function startTemporal(options: TemporalOptions, onSpawn: (process: ChildProcess) => void = () => {}): Promise<TemporalServer> {
  const child = spawnServer(options);
  onSpawn(child);
  const address = `127.0.0.1:${options.port}`;
  try {
    await prepareNamespace(address, child);
  } catch (error) {
    const ended = hasEnded(child);
    child.kill('SIGKILL');
    const log = lastWords(await readFile(options.logFile, 'utf8').catch(() => ''));
    throw new HoldpointError('temporal_unreachable', `the Temporal server did not start on ${address}: ${messageOf(error)}\n${log}`, {
      cause: error,
      details: { ended },
      hint: `its log is ${options.logFile}`,
    });
  }
  return { process: child, port: options.port, webPort: options.webPort, address, web: `http://127.0.0.1:${options.webPort}` };
}

/**
 * The same with port 0 = any free one. A free port can be taken before the server has it, and the server picks some of
 * its own in the same way: an attempt that ends at once is repeated.
 */
export async function startTemporalRetrying(options: TemporalOptions, onSpawn?: (process: ChildProcess) => void): Promise<TemporalServer> {
  for (let attempt = 1; ; attempt += 1) {
    const [port = 0, webPort = 0] = await freePorts(2);
    try {
      return await startTemporal({ ...options, port: options.port || port, webPort: options.webPort || webPort }, onSpawn);
    } catch (error) {
      if (attempt >= ATTEMPTS || !(isHoldpointError(error) && error.details.ended === true)) throw error;
      await sleep(200);
    }
  }
}

/** The end of a log without the frames of a stack trace. */
function lastWords(log: string): string {
  const lines = log.split('\n').filter((line) => line !== '' && !/^\s|^goroutine |^[\w./()*-]+\(.*\)$/.test(line));
  return lines.slice(-3).join('\n');
}

function spawnServer(options: TemporalOptions): ChildProcess {
  const args = ['server', 'start-dev', '--ip', '127.0.0.1', '--port', String(options.port), '--ui-port', String(options.webPort), '--log-level', 'warn'];
  if (options.dbFile !== undefined) args.push('--db-filename', options.dbFile, ...SQLITE.flatMap((pragma) => ['--sqlite-pragma', pragma]));
  if (options.searchAttributes !== false) for (const name of Object.values(SEARCH_ATTRIBUTES)) args.push('--search-attribute', `${name}=Keyword`);
  for (const value of DYNAMIC_CONFIG) args.push('--dynamic-config-value', value);
  const log = openSync(options.logFile, 'a', 0o600);
  const env = { PATH: process.env.PATH, HOME: process.env.HOME };
  // A process group of its own: Ctrl-C in the terminal reaches `up` alone, which stops its parts in order.
  const child = spawn(options.program, args, { env, stdio: ['ignore', log, log], detached: true });
  child.on('error', () => {});
  closeSync(log);
  return child;
}

function hasEnded(child: ChildProcess): boolean {
  return child.exitCode !== null || child.signalCode !== null || child.pid === undefined;
}

async function prepareNamespace(address: string, child: ChildProcess): Promise<void> {
  const { Connection } = await import('@temporalio/client');
  const connection = Connection.lazy({ address, connectTimeout: '2s' });
  let last: unknown = new Error('no answer');
  try {
    const ready = await waitUntil(
      async () => {
        if (hasEnded(child)) throw new Error('the process ended at once');
        try {
          await connection.withDeadline(Date.now() + 2_000, () => connection.workflowService.describeNamespace({ namespace: 'default' }));
          return true;
        } catch (error) {
          last = error;
          return false;
        }
      },
      30_000,
      50,
    );
    if (!ready) throw last;
    const { msToTs } = await import('@temporalio/common/lib/time.js');
    await connection.workflowService.updateNamespace({ namespace: 'default', config: { workflowExecutionRetentionTtl: msToTs(`${RETENTION_DAYS} days`) } });
  } finally {
    await connection.close();
  }
}
