/** `holdpoint serve`: composition root of the decision service. */
import { pino } from 'pino';
import { temporalEnvironment } from '../adapters/secrets.ts';
import { connectTemporal } from '../client/temporal.ts';
import { readServerConfig } from './config.ts';
import { startService } from './service.ts';
import { runsOnTemporal } from './temporal-runs.ts';

/**
 * Runs the service until SIGTERM or SIGINT, or until the process that spawned it with a channel is gone. Prints one line
 * on stdout when it is ready; logs go to stderr.
 */
export async function runServer(env: Record<string, string | undefined> = process.env): Promise<void> {
  const config = readServerConfig(env);
  const log = pino({ level: config.logLevel, base: { process: 'serve' } }, pino.destination({ fd: 2, sync: true }));
  const asked = stopAsked();
  const temporal = await connectTemporal(temporalEnvironment(env));
  try {
    const service = await startService(config, runsOnTemporal(temporal, config.taskQueue), log);
    process.stdout.write(`${JSON.stringify({ ready: 'serve', api_url: service.url })}\n`);
    const why = await asked;
    log.info({ why }, 'stopping');
    await service.stop();
  } finally {
    await temporal.connection.close();
  }
}

function stopAsked(): Promise<string> {
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
    // Spawned by `up`: nothing may be left behind when it is killed.
    if (!process.channel) return;
    process.once('disconnect', () => resolve('the parent process is gone'));
    // To listen is not to stay: a service that could not start ends although its parent lives.
    process.channel.unref();
  });
}
