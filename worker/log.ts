/** Logs are JSON lines on stderr, Temporal's own among them: stdout belongs to the ready line. */
import { DefaultLogger, makeTelemetryFilterString, Runtime } from '@temporalio/worker';
import { type Logger, pino } from 'pino';
import type { WorkerConfig } from './config.ts';

export function createLog(level: WorkerConfig['logLevel']): Logger {
  return pino({ level, base: { process: 'worker' }, timestamp: pino.stdTimeFunctions.isoTime }, pino.destination({ dest: 2, sync: true }));
}

/** Once per process, before any other use of the SDK. Signals are ours to handle. */
export function installRuntime(log: Logger): void {
  const logger = new DefaultLogger('DEBUG', ({ level, message, meta }) => {
    const { error, ...fields } = meta ?? {};
    log[METHOD[level]]({ ...fields, ...(error === undefined ? {} : { err: error }) }, message);
  });
  Runtime.install({
    logger,
    shutdownSignals: [],
    telemetryOptions: { logging: { filter: makeTelemetryFilterString({ core: 'WARN', other: 'ERROR' }), forward: {} } },
  });
}

const METHOD = { TRACE: 'trace', DEBUG: 'debug', INFO: 'debug', WARN: 'warn', ERROR: 'error' } as const;
