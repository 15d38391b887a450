/** The standard Temporal environment as data: what a client finds its server by. Outside vitest too. */
import { Connection } from '@temporalio/client';
import { loadClientConnectConfig } from '@temporalio/envconfig';

/** `HOLDPOINT_TEST_SERVER`: which Temporal server the tests run on. */
export type ServerKind = 'embedded' | 'full';

export function serverKind(env: Readonly<Record<string, string | undefined>> = process.env): ServerKind {
  const kind = env.HOLDPOINT_TEST_SERVER ?? 'embedded';
  if (kind === 'embedded' || kind === 'full') return kind;
  throw new Error(`HOLDPOINT_TEST_SERVER is "${kind}": it can be "embedded" or "full"`);
}

export type TemporalEnvironment = Record<string, string>;

/** Of a server that asks for nothing. */
export function plainEnvironment(address: string): TemporalEnvironment {
  return { TEMPORAL_ADDRESS: address, TEMPORAL_NAMESPACE: 'default', TEMPORAL_CONFIG_FILE: '/nonexistent/temporal.toml' };
}

/** For `Connection` and `NativeConnection`: what the environment given says, and not that of this process. */
export function connectionOptions(environment: TemporalEnvironment) {
  return loadClientConnectConfig({ overrideEnvVars: environment }).connectionOptions;
}

export function lazyConnection(environment: TemporalEnvironment): Connection {
  return Connection.lazy({ ...connectionOptions(environment), connectTimeout: '2s' });
}

export async function connect(environment: TemporalEnvironment): Promise<Connection> {
  return await Connection.connect({ ...connectionOptions(environment), connectTimeout: '10s' });
}
