/** Environment of `serve`, read once. */
import { z } from 'zod';
import { withSecretFiles } from '../adapters/secrets.ts';
import { HoldpointError } from '../core/errors.ts';

const port = z.coerce.number().int().min(0).max(65_535);
const flag = z
  .enum(['0', '1'])
  .default('0')
  .transform((value) => value === '1');
const path = z.string().min(1);

const Environment = z.object({
  DATABASE_URL: z.string().regex(/^postgres(ql)?:\/\//, 'a postgres:// address'),
  HOLDPOINT_TASK_QUEUE: z.string().min(1).default('holdpoint'),
  HOLDPOINT_CONFIG: path,
  HOLDPOINT_KEYS_DIR: path,
  HOLDPOINT_JWKS: path,
  HOLDPOINT_CHECKPOINTS_DIR: path,
  /** Absent: who may do what is what the database holds already. */
  HOLDPOINT_IDENTITIES: path.optional(),
  HOLDPOINT_HOST: z.string().min(1).default('127.0.0.1'),
  HOLDPOINT_ALLOW_REMOTE: flag,
  PORT: port.default(7390),
  HOLDPOINT_TEMPORAL_WEB: z.url({ protocol: /^https?$/ }).optional(),
  HOLDPOINT_ROTATE_KEY: flag,
  LOG_LEVEL: z.enum(['silent', 'fatal', 'error', 'warn', 'info', 'debug', 'trace']).default('info'),
});

export interface ServerConfig {
  readonly databaseUrl: string;
  readonly taskQueue: string;
  readonly policyFile: string;
  readonly keysDir: string;
  readonly jwksFile: string;
  readonly checkpointsDir: string;
  readonly identitiesFile: string | undefined;
  readonly host: string;
  readonly port: number;
  /** Address of Temporal Web without a slash at its end. */
  readonly temporalWeb: string | undefined;
  readonly rotateKey: boolean;
  readonly logLevel: string;
}

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|::1|\[::1\])$/i;

export const isLoopback = (host: string): boolean => LOOPBACK.test(host);

/** @throws HoldpointError `usage` that names every variable that is wrong, and what was expected */
export function readServerConfig(env: Record<string, string | undefined>): ServerConfig {
  const given = Object.fromEntries(Object.entries(withSecretFiles(env)).filter(([, value]) => value !== undefined && value !== ''));
  const parsed = Environment.safeParse(given);
  if (!parsed.success) {
    const problems = parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
    throw new HoldpointError('usage', `serve cannot start, its environment is not usable: ${problems.join('; ')}`, { details: { problems } });
  }
  const { data } = parsed;
  if (!isLoopback(data.HOLDPOINT_HOST) && !data.HOLDPOINT_ALLOW_REMOTE) {
    throw new HoldpointError('usage', `HOLDPOINT_HOST=${data.HOLDPOINT_HOST} would make the API reachable from other machines`, {
      hint: 'put a TLS proxy before it and set HOLDPOINT_ALLOW_REMOTE=1, or use 127.0.0.1',
    });
  }
  return Object.freeze({
    databaseUrl: data.DATABASE_URL,
    taskQueue: data.HOLDPOINT_TASK_QUEUE,
    policyFile: data.HOLDPOINT_CONFIG,
    keysDir: data.HOLDPOINT_KEYS_DIR,
    jwksFile: data.HOLDPOINT_JWKS,
    checkpointsDir: data.HOLDPOINT_CHECKPOINTS_DIR,
    identitiesFile: data.HOLDPOINT_IDENTITIES,
    host: data.HOLDPOINT_HOST.replace(/^\[|\]$/g, ''),
    port: data.PORT,
    temporalWeb: data.HOLDPOINT_TEMPORAL_WEB?.replace(/\/+$/, ''),
    rotateKey: data.HOLDPOINT_ROTATE_KEY,
    logLevel: data.LOG_LEVEL,
  });
}
