/** What the worker and the API see of the environment: each its own, and nothing of the other's. */
import { asRole } from './examples.ts';
import type { RolePasswords } from './identities.ts';
import type { StatePaths } from './state.ts';

type Environment = Readonly<Record<string, string | undefined>>;

/** What every Node process may need: programs, home, language, certificates, proxies. */
const COMMON = /^(PATH|HOME|USER|LANG|LC_\w+|TZ|TMPDIR|NODE_EXTRA_CA_CERTS|SSL_CERT_FILE|SSL_CERT_DIR|LOG_LEVEL|NO_COLOR|(HTTPS?|NO|ALL)_PROXY)$/i;
/** Temporal's own, for a server that was given. */
const TEMPORAL = /^TEMPORAL_/;
/** Never for the worker: it runs tools, whose credentials are all it should find in its environment. */
const NOT_FOR_WORKER = /^(HOLDPOINT_|TEMPORAL_|DATABASE_(URL|PASSWORD_FILE)$|PG|POSTGRES|npm_)/i;
const SETTINGS = ['HOLDPOINT_TASK_QUEUE', 'HOLDPOINT_MAX_CACHED_RUNS'];
const SERVE_SETTINGS = ['HOLDPOINT_TASK_QUEUE', 'HOLDPOINT_ROTATE_KEY'];

export interface StackParts {
  paths: StatePaths;
  adminUrl: string;
  passwords: RolePasswords;
  configFile: string;
  apiPort: number;
  /** Undefined: a server was given by the environment. */
  embeddedTemporal: { address: string; web: string } | undefined;
}

/** The worker holds tool credentials and public keys: no signing key, no superuser, no API key. */
export function workerEnvironment(env: Environment, parts: StackParts): NodeJS.ProcessEnv {
  return {
    ...pick(env, (name) => !NOT_FOR_WORKER.test(name) || SETTINGS.includes(name)),
    ...temporalEnvironment(env, parts),
    DATABASE_URL: asRole(parts.adminUrl, 'holdpoint_worker', parts.passwords.worker),
    HOLDPOINT_EXAMPLE_DATABASE_URL: asRole(parts.adminUrl, 'holdpoint_examples', parts.passwords.examples),
    HOLDPOINT_CONFIG: parts.configFile,
    HOLDPOINT_JWKS: parts.paths.jwks,
    HOLDPOINT_EFFECTS_FILE: parts.paths.effects,
  };
}

/** The API holds the signing key: no tool credentials. */
export function serveEnvironment(env: Environment, parts: StackParts): NodeJS.ProcessEnv {
  const web = parts.embeddedTemporal?.web ?? env.HOLDPOINT_TEMPORAL_WEB;
  return {
    ...pick(env, (name) => COMMON.test(name) || SERVE_SETTINGS.includes(name)),
    ...temporalEnvironment(env, parts),
    DATABASE_URL: asRole(parts.adminUrl, 'holdpoint_serve', parts.passwords.serve),
    HOLDPOINT_CONFIG: parts.configFile,
    HOLDPOINT_KEYS_DIR: parts.paths.serveKeys,
    HOLDPOINT_JWKS: parts.paths.jwks,
    HOLDPOINT_CHECKPOINTS_DIR: parts.paths.checkpoints,
    HOLDPOINT_IDENTITIES: parts.paths.identities,
    HOLDPOINT_HOST: '127.0.0.1',
    PORT: String(parts.apiPort),
    ...(web === undefined ? {} : { HOLDPOINT_TEMPORAL_WEB: web }),
  };
}

/** Names no file. An empty one, /dev/null say, makes the loader of 1.24 fail. */
const NO_CONFIG_FILE = '/nonexistent/temporal.toml';

/** The embedded server needs no key and no TLS, whatever the user's Temporal configuration says of other servers. */
function temporalEnvironment(env: Environment, parts: StackParts): NodeJS.ProcessEnv {
  if (parts.embeddedTemporal === undefined) return pick(env, (name) => TEMPORAL.test(name));
  return { TEMPORAL_ADDRESS: parts.embeddedTemporal.address, TEMPORAL_NAMESPACE: 'default', TEMPORAL_CONFIG_FILE: NO_CONFIG_FILE };
}

function pick(env: Environment, wanted: (name: string) => boolean): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => wanted(name)));
}
