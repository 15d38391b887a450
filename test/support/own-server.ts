/** A Temporal server of one test's own, of the kind that the switch says, that can be killed and started again. */
import { join } from 'node:path';
import { inject } from 'vitest';
import { freePorts } from '../../cli/stack/ports.ts';
import { startTemporal, type TemporalServer } from '../../cli/stack/temporal.ts';
import { plainEnvironment, type TemporalEnvironment } from './environment.ts';
import { startFullServer } from './full-server.ts';
import { ensureServerBinaries } from './server-binaries.ts';

export interface OwnServer {
  environment: TemporalEnvironment;
  stop(): Promise<void>;
  /** `kill -9`. */
  kill(): Promise<void>;
  /** Starts it again on the same ports and data. */
  restart(): Promise<void>;
}

export async function startOwnServer(folder: string): Promise<OwnServer> {
  return inject('temporalServer') === 'full' ? await ownFullServer(folder) : await ownEmbeddedServer(folder);
}

/** Its databases are in the test run's PostgreSQL. */
async function ownFullServer(folder: string): Promise<OwnServer> {
  const binaries = await ensureServerBinaries(() => {});
  return await startFullServer({ binaries, program: inject('temporalProgram'), databaseAdminUrl: inject('adminDatabaseUrl'), folder });
}

async function ownEmbeddedServer(folder: string): Promise<OwnServer> {
  const [port = 0, webPort = 0] = await freePorts(2);
  const files = { dbFile: join(folder, 'temporal.db'), logFile: join(folder, 'temporal.log') };
  const start = (): Promise<TemporalServer> => startTemporal({ program: inject('temporalProgram'), port, webPort, ...files });
  let server = await start();
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    const { process: child } = server;
    const closed = new Promise((resolve) => child.once('exit', resolve));
    if (child.exitCode === null && child.signalCode === null && child.kill(signal)) await closed;
  };
  return {
    environment: plainEnvironment(server.address),
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
    async restart() {
      await end('SIGTERM');
      server = await start();
    },
  };
}
