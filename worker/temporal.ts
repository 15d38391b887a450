/** The worker's connection to Temporal, and the search attributes that runs may set there. */
import { setTimeout as sleep } from 'node:timers/promises';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { NativeConnection } from '@temporalio/worker';
import type { Executions } from '../activities/ports.ts';
import { temporalEnvironment } from '../adapters/secrets.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { SEARCH_ATTRIBUTES } from '../core/words.ts';

/** Number of Temporal's type Keyword. */
const KEYWORD = 2;
const FIRST_PAUSE_MS = 250;
const LONGEST_PAUSE_MS = 5_000;

export interface TemporalLink {
  connection: NativeConnection;
  namespace: string;
  address: string;
}

export interface ConnectOptions {
  /** How long it is tried again. */
  patienceMs?: number;
  onRetry?: (message: string) => void;
  /** Ends the attempts. */
  signal?: AbortSignal | undefined;
}

/**
 * Connects as the standard Temporal environment says, again and again for `patienceMs`.
 *
 * @throws HoldpointError `temporal_unreachable` with the address and the next command
 */
export async function connectWorker({ patienceMs = 30_000, onRetry, signal }: ConnectOptions = {}): Promise<TemporalLink> {
  const { connectionOptions, namespace = 'default' } = loadClientConnectConfig({ overrideEnvVars: temporalEnvironment(process.env) });
  const address = connectionOptions.address ?? 'localhost:7233';
  const deadline = performance.now() + patienceMs;
  for (let pause = FIRST_PAUSE_MS; ; pause = Math.min(pause * 2, LONGEST_PAUSE_MS)) {
    try {
      const connection = await NativeConnection.connect({ ...connectionOptions, address });
      try {
        await connection.workflowService.describeNamespace({ namespace });
        return { connection, namespace, address };
      } catch (error) {
        await connection.close();
        throw error;
      }
    } catch (error) {
      if (performance.now() + pause > deadline) throw unreachable(address, namespace, error);
      onRetry?.(`Temporal at ${address} does not answer yet: ${messageOf(error)}`);
      await sleep(pause, undefined, { ...(signal ? { signal } : {}) });
    }
  }
}

/** Remembers this many executions; a chain is looked up once per continue-as-new. */
const REMEMBERED = 10_000;

/** Asks the server which chain an execution belongs to. */
export function executionsOf({ connection, namespace }: TemporalLink): Executions {
  const known = new Map<string, string>();
  return {
    async firstOf({ workflow_id: workflowId, execution_id: runId }) {
      const found = known.get(runId);
      if (found !== undefined) return found;
      const described = await connection.workflowService.describeWorkflowExecution({ namespace, execution: { workflowId, runId } });
      const first = described.workflowExecutionInfo?.firstRunId ?? undefined;
      if (first !== undefined) known.set(runId, first);
      if (known.size > REMEMBERED) known.delete(known.keys().next().value ?? '');
      return first;
    },
  };
}

function unreachable(address: string, namespace: string, error: unknown): HoldpointError {
  return new HoldpointError('temporal_unreachable', `Temporal at ${address}, namespace ${namespace}, does not answer: ${messageOf(error)}`, {
    cause: error,
    details: { address, namespace },
    hint: 'check TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE, or start the stack: holdpoint up',
  });
}

/**
 * Whether runs may set our search attributes. Registers those that are missing where it may; an upsert of one that the
 * namespace does not know would wedge a run, so without them runs leave them out.
 */
export async function ensureSearchAttributes({ connection, namespace }: TemporalLink): Promise<boolean> {
  try {
    const missing = await missingAttributes(connection, namespace);
    if (missing.length === 0) return true;
    await connection.operatorService.addSearchAttributes({ namespace, searchAttributes: Object.fromEntries(missing.map((name) => [name, KEYWORD])) });
    for (let attempt = 0; attempt < 40; attempt += 1) {
      if ((await missingAttributes(connection, namespace)).length === 0) return true;
      await sleep(250);
    }
    return false;
  } catch {
    // Not allowed, or a server that has no such service: nothing that a run needs.
    return false;
  }
}

async function missingAttributes(connection: NativeConnection, namespace: string): Promise<string[]> {
  const { customAttributes } = await connection.operatorService.listSearchAttributes({ namespace });
  return Object.values(SEARCH_ATTRIBUTES).filter((name) => customAttributes?.[name] !== KEYWORD);
}

/** The command that registers them, for the log and for `doctor`. */
export function searchAttributesCommand(namespace: string): string {
  const names = Object.values(SEARCH_ATTRIBUTES).map((name) => `--name ${name} --type Keyword`);
  return `temporal operator search-attribute create --namespace ${namespace} ${names.join(' ')}`;
}
