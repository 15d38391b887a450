/** The decision service, assembled: what runs in `serve`, and in tests. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { getRequestListener } from '@hono/node-server';
import { CheckpointFile } from '../adapters/checkpoint.ts';
import { createPool, refuseOldSchema } from '../adapters/database.ts';
import { openSigningKeys, recordKeys } from '../adapters/keys.ts';
import { watchPolicy } from '../adapters/policy-watch.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { createApp } from './app.ts';
import type { ServerConfig } from './config.ts';
import { startDelivery } from './delivery.ts';
import { failureOutside } from './http.ts';
import { applyIdentities, readIdentities } from './identities.ts';
import type { Log, RunsOnTemporal, ServerContext } from './ports.ts';
import { RunWatch } from './run-watch.ts';
import { startRecovery } from './runs.ts';
import { startSealer } from './sealer.ts';
import { startSweeper } from './sweeper.ts';

export interface Service {
  /** Address of the API. */
  readonly url: string;
  readonly context: ServerContext;
  /** Answers what is asked, finishes what is in hand, closes connections. Twice is once. */
  stop(): Promise<void>;
}

/** @param runs the Temporal side; the caller closes its connection after `stop()` */
export async function startService(config: ServerConfig, runs: RunsOnTemporal, log: Log): Promise<Service> {
  const policy = await watchPolicy(config.policyFile, log);
  const identities = config.identitiesFile === undefined ? undefined : await readIdentities(config.identitiesFile);
  const pool = createPool(config.databaseUrl, { name: 'holdpoint-serve' });
  try {
    await refuseOldSchema(pool);
    const keys = await openSigningKeys({ dir: config.keysDir, jwksFile: config.jwksFile, rotate: config.rotateKey });
    await recordKeys(pool, keys);
    if (identities) await applyIdentities(pool, identities);
    const context: ServerContext = { pool, keys, policy, runs, log, temporalWeb: config.temporalWeb };
    return await listen(config, context, () => policy.close());
  } catch (error) {
    policy.close();
    await pool.end();
    throw error;
  }
}

async function listen(config: ServerConfig, context: ServerContext, closePolicy: () => void): Promise<Service> {
  const { log, pool } = context;
  const checkpoints = new CheckpointFile(config.checkpointsDir);
  const watch = new RunWatch(config.databaseUrl, log);
  const delivery = startDelivery(context);
  const loops = [startRecovery(context), startSweeper(context), startSealer(context, checkpoints)];
  const stopWork = async (): Promise<void> => {
    await Promise.all([...loops.map((loop) => loop.stop()), delivery.stop(), watch.stop()]);
  };
  const app = createApp(context, { delivery, watch, checkpoints, host: config.host });
  const answer = getRequestListener(app.fetch, { errorHandler: failureOutside });
  const server = createServer((request, response) => void answer(request, response));
  // A body that trickles in holds nothing but its own connection, and not for long.
  server.requestTimeout = 30_000;
  server.headersTimeout = 10_000;
  try {
    await watch.start();
    await bind(server, config);
  } catch (error) {
    await stopWork();
    throw error;
  }
  let stopping: Promise<void> | undefined;
  const stop = async (): Promise<void> => {
    const closed = new Promise<void>((resolve) => server.close(() => resolve()));
    await stopWork();
    server.closeIdleConnections();
    const force = setTimeout(() => server.closeAllConnections(), 5_000);
    await closed;
    clearTimeout(force);
    closePolicy();
    await pool.end();
  };
  return { url: addressOf(server, config.host), context, stop: () => (stopping ??= stop()) };
}

function bind(server: Server, { host, port }: ServerConfig): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        new HoldpointError('already_running', `the API cannot listen on ${host}:${port}: ${messageOf(error)}`, {
          cause: error,
          hint: 'set PORT=0 for any free port',
        }),
      ),
    );
    server.listen(port, host, resolve);
  });
}

function addressOf(server: Server, host: string): string {
  const { port } = server.address() as AddressInfo;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}
