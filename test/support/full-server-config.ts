/** The static configuration of a full Temporal server: everything on this machine alone. */
import { fileURLToPath } from 'node:url';
import type { Certificates } from './certificates.ts';

/** The first is the one that clients see. */
const SERVICES = ['frontend', 'history', 'matching', 'worker'];
/** Where tokens are asked for, the server's own workers, which have none, come by a door of their own. */
const INTERNAL_DOOR = 'internal-frontend';

export function servicesOf(authorization: Authorization | undefined): string[] {
  return authorization === undefined ? SERVICES : [...SERVICES, INTERNAL_DOOR];
}

const DYNAMIC_CONFIG = fileURLToPath(new URL('../../deploy/temporal/dynamic-config.yaml', import.meta.url));

export interface Databases {
  host: string;
  port: string;
  user: string;
  password: string;
  main: string;
  visibility: string;
}

export interface Authorization {
  /** Address of the JWK set by which clients' tokens are checked. */
  jwksUrl: string;
  /** Token that may make the namespace: `permissions: ["temporal-system:admin"]`. */
  apiKey: string;
}

export interface ConfigurationFacts {
  databases: Databases;
  authorization: Authorization | undefined;
  /** Two for each service. */
  ports: number[];
  historyShards: number;
  certificates: Certificates | undefined;
}

/** JSON, which is YAML. */
export function configuration({ databases, ports, historyShards, certificates, authorization }: ConfigurationFacts): string {
  return JSON.stringify(
    {
      log: { stdout: true, level: 'info' },
      persistence: {
        defaultStore: 'main',
        visibilityStore: 'visibility',
        numHistoryShards: historyShards,
        datastores: { main: store(databases, databases.main, 8), visibility: store(databases, databases.visibility, 2) },
      },
      global: {
        membership: { maxJoinDuration: '30s', broadcastAddress: '127.0.0.1' },
        ...(certificates && { tls: tls(certificates) }),
        ...(authorization && { authorization: tokens(authorization) }),
      },
      services: Object.fromEntries(
        servicesOf(authorization).map((name, index) => [
          name,
          { rpc: { grpcPort: ports[2 * index], membershipPort: ports[2 * index + 1], bindOnIP: '127.0.0.1' } },
        ]),
      ),
      clusterMetadata: {
        enableGlobalNamespace: false,
        failoverVersionIncrement: 10,
        masterClusterName: 'active',
        currentClusterName: 'active',
        clusterInformation: { active: { enabled: true, initialFailoverVersion: 1, rpcName: 'frontend', rpcAddress: `127.0.0.1:${ports[0]}` } },
      },
      dcRedirectionPolicy: { policy: 'noop' },
      dynamicConfigClient: { filepath: DYNAMIC_CONFIG, pollInterval: '60s' },
    },
    null,
    2,
  );
}

/** Each of the four services has a pool of its own: the connections of one server are four times these. */
function store({ host, port, user, password }: Databases, databaseName: string, maxConns: number): unknown {
  const pool = { maxConns, maxIdleConns: maxConns, maxConnLifetime: '1h' };
  return { sql: { pluginName: 'postgres12', databaseName, connectAddr: `${host}:${port}`, connectProtocol: 'tcp', user, password, ...pool } };
}

function tokens({ jwksUrl }: Authorization): unknown {
  return {
    jwtKeyProvider: { keySourceURIs: [jwksUrl], refreshInterval: '1m' },
    permissionsClaimName: 'permissions',
    authorizer: 'default',
    claimMapper: 'default',
  };
}

/** Everybody shows a certificate: clients, and the services to each other. */
function tls({ ca, server }: Certificates): unknown {
  const own = { certFile: server.cert, keyFile: server.key };
  const group = { server: { ...own, requireClientAuth: true, clientCaFiles: [ca] }, client: { serverName: 'localhost', rootCaFiles: [ca] } };
  return { internode: group, frontend: group, systemWorker: { ...own, client: group.client } };
}
