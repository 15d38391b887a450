import { expect, test } from 'vitest';
import { serveEnvironment, workerEnvironment, type StackParts } from '../../cli/stack/environment.ts';
import { statePaths } from '../../cli/stack/state.ts';

const parts: StackParts = {
  paths: statePaths('/state'),
  adminUrl: 'postgres://postgres:superuser-secret@127.0.0.1:5000/holdpoint',
  passwords: { worker: 'w', serve: 's', examples: 'e' },
  configFile: '/policy.yaml',
  apiPort: 7390,
  embeddedTemporal: { address: '127.0.0.1:7233', web: 'http://127.0.0.1:8233' },
};

const shell = {
  PATH: '/bin',
  CRM_TOKEN: 'crm-secret',
  SMTP_URL: 'smtp://mail',
  HOLDPOINT_API_KEY: 'hp_key',
  HOLDPOINT_KEYS_DIR: '/elsewhere',
  HOLDPOINT_MAX_CACHED_RUNS: '7',
  DATABASE_URL: 'postgres://given-superuser@db/x',
  DATABASE_PASSWORD_FILE: '/given-secret/file',
  PGPASSWORD: 'given-secret',
  TEMPORAL_API_KEY: 'cloud-key',
  TEMPORAL_ADDRESS: 'cloud:7233',
};

test('the worker gets tool credentials and its settings, and no key, superuser or cloud credential', () => {
  const env = workerEnvironment(shell, parts);
  expect(env).toMatchObject({ CRM_TOKEN: 'crm-secret', SMTP_URL: 'smtp://mail', HOLDPOINT_MAX_CACHED_RUNS: '7', TEMPORAL_ADDRESS: '127.0.0.1:7233' });
  expect(JSON.stringify(env)).not.toMatch(/superuser|hp_key|\/elsewhere|given-secret|cloud|\/state\/serve/);
});

test('the API gets the signing keys and no tool credentials', () => {
  const env = serveEnvironment(shell, parts);
  expect(env).toMatchObject({ HOLDPOINT_KEYS_DIR: '/state/serve', PORT: '7390' });
  expect(JSON.stringify(env)).not.toMatch(/crm-secret|smtp|superuser|hp_key|given-secret|cloud/);
});

test('a Temporal server that was given is reached with its own credentials', () => {
  expect(workerEnvironment(shell, { ...parts, embeddedTemporal: undefined })).toMatchObject({ TEMPORAL_ADDRESS: 'cloud:7233', TEMPORAL_API_KEY: 'cloud-key' });
});
