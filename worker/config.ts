/** Environment of `worker`, read once. Temporal's address, namespace and credentials are read by its own configuration. */
import { z } from 'zod';
import { withSecretFiles } from '../adapters/secrets.ts';
import { HoldpointError } from '../core/errors.ts';

const path = z.string().min(1);

const Environment = z.object({
  DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//, 'a postgres:// address'),
  HOLDPOINT_TASK_QUEUE: z.string().min(1).max(200).default('holdpoint'),
  HOLDPOINT_CONFIG: path,
  HOLDPOINT_JWKS: path,
  /** Waiting runs need not be cached: one costs about 120 KB here, and waking one that is not takes milliseconds. */
  HOLDPOINT_MAX_CACHED_RUNS: z.coerce.number().int().min(2).max(100_000).default(500),
  HOLDPOINT_HEALTH_HOST: z.string().min(1).default('127.0.0.1'),
  HOLDPOINT_HEALTH_PORT: z.coerce.number().int().min(0).max(65_535).optional(),
  LOG_LEVEL: z.enum(['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace']).default('info'),
});

export interface WorkerConfig {
  readonly databaseUrl: string;
  readonly taskQueue: string;
  readonly policyFile: string;
  /** Public keys that tokens are verified with; read again when the file changes. */
  readonly jwksFile: string;
  readonly maxCachedRuns: number;
  /** Where `GET /healthz` is answered; absent = nowhere. */
  readonly health?: { readonly host: string; readonly port: number } | undefined;
  readonly logLevel: z.infer<typeof Environment>['LOG_LEVEL'];
}

/** @throws HoldpointError `usage` that names every variable that is wrong, and what was expected */
export function readWorkerConfig(env: Record<string, string | undefined>): WorkerConfig {
  const given = Object.fromEntries(Object.entries(withSecretFiles(env)).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = Environment.safeParse(given);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    throw new HoldpointError('usage', `the worker cannot start, its environment is not usable: ${problems.join('; ')}`, { details: { problems } });
  }
  const { data } = parsed;
  return Object.freeze({
    databaseUrl: data.DATABASE_URL,
    taskQueue: data.HOLDPOINT_TASK_QUEUE,
    policyFile: data.HOLDPOINT_CONFIG,
    jwksFile: data.HOLDPOINT_JWKS,
    maxCachedRuns: data.HOLDPOINT_MAX_CACHED_RUNS,
    health: data.HOLDPOINT_HEALTH_PORT === undefined ? undefined : { host: data.HOLDPOINT_HEALTH_HOST, port: data.HOLDPOINT_HEALTH_PORT },
    logLevel: data.LOG_LEVEL,
  });
}
