/** docker-compose.yml keeps its rules. What runs by it is in `native.test.ts`. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Ajv } from 'ajv';
import { describe, expect, test } from 'vitest';
import { parse } from 'yaml';
import { compose, composeText, isNamedVolume, mountsOf, ROOT, secretFile, type Service, serviceOf } from './stack.ts';

const read = (path: string): string => readFileSync(join(ROOT, path), 'utf8');
const services = Object.entries(compose.services);
const JOBS = ['temporal-schema', 'temporal-namespace', 'migrate'];
const OWN = ['migrate', 'serve', 'worker'];
const running = services.filter(([name]) => !JOBS.includes(name));
/** Names of the services that break a rule. */
const breaking = (rule: (service: Service) => boolean): string[] => services.filter(([, service]) => !rule(service)).map(([name]) => name);

/** The schema names its dialect by an address that validators do not know it by. */
function validator(): { accepts: (value: unknown) => boolean; problems: () => unknown } {
  const { $schema: _dialect, ...schema } = JSON.parse(read('test/compose/compose-spec.json')) as Record<string, unknown>;
  const ajv = new Ajv({ strict: false, allErrors: true });
  for (const format of ['duration', 'expose', 'ports', 'subnet_ip_address']) ajv.addFormat(format, true);
  const accepts = ajv.compile(schema);
  return { accepts: (value) => accepts(value), problems: () => accepts.errors ?? [] };
}

describe('the file', () => {
  test('fits the schema of the Compose Specification, which refuses a misspelt key', () => {
    const { accepts, problems } = validator();
    expect(accepts(compose), JSON.stringify(problems())).toBe(true);
    const misspelt = structuredClone(compose) as unknown as { services: Record<string, Record<string, unknown>> };
    misspelt.services.worker!.readonly = true;
    expect(accepts(misspelt)).toBe(false);
  });

  test('holds no password: addresses name users only, and what is called a password or a key is a file', () => {
    expect(composeText).not.toMatch(/:\/\/[^\s/:@]+:[^\s/@]+@/);
    for (const [name, { environment = {} }] of services)
      for (const [variable, value] of Object.entries(environment))
        if (/PASS|PWD|SECRET|TOKEN|API_KEY/.test(variable)) expect(`${name} ${variable}=${value}`).toMatch(/_FILE=\/run\/secrets\/\w+$/);
    expect(composeText).not.toMatch(/POSTGRES_PWD(?!=\$\$\(cat \/run\/secrets\/)(?! &&)/);
    expect(composeText).not.toMatch(/HOST_AUTH_METHOD|trust/);
  });

  test('stops with the command that makes the secrets when there are none', () => {
    for (const { file } of Object.values(compose.secrets)) expect(file).toMatch(/^\$\{HOLDPOINT_SECRETS_DIR:\?run node deploy\/make-secrets\.mjs\}\/[\w.]+$/);
    expect(existsSync(join(ROOT, 'deploy/make-secrets.mjs'))).toBe(true);
    expect(read('.gitignore').split('\n')).toEqual(expect.arrayContaining(['/secrets/', '/.env']));
  });

  test('names every network, volume and secret that a service uses, and uses every one that it names', () => {
    const used = (of: (service: Service) => string[]): string[] => [...new Set(services.flatMap(([, service]) => of(service)))].sort();
    expect(used(({ networks = [] }) => networks)).toEqual(Object.keys(compose.networks).sort());
    expect(used(({ secrets = [] }) => secrets)).toEqual(Object.keys(compose.secrets).sort());
    const volumes = used((service) =>
      mountsOf(service)
        .filter(isNamedVolume)
        .map(({ source }) => source),
    );
    expect(volumes).toEqual(Object.keys(compose.volumes).sort());
  });

  test('mounts only files that the repository has', () => {
    const sources = services.flatMap(([, service]) => mountsOf(service).filter((mount) => !isNamedVolume(mount)));
    expect(sources.length).toBeGreaterThan(5);
    expect(sources.filter(({ source }) => !existsSync(join(ROOT, source))).map(({ source }) => source)).toEqual([]);
    expect(sources.filter(({ readOnly }) => !readOnly)).toEqual([]);
  });
});

describe('every service', () => {
  test('has an image of one exact version, and the one of Holdpoint has that of package.json', () => {
    expect(breaking(({ image }) => /:\d+\.\d+(\.\d+)?(-[\w.-]+)?$/.test(image))).toEqual([]);
    expect(composeText).not.toMatch(/auto-setup|:latest/);
    const { version } = JSON.parse(read('package.json')) as { version: string };
    for (const name of OWN) expect(serviceOf(name).image).toBe(`holdpoint:${version}`);
    for (const from of read('Dockerfile').matchAll(/^FROM (\S+)/gm)) expect(from[1]).toMatch(/^node:22\.\d+\.\d+-bookworm-slim$/);
  });

  test('runs as a user that is not root, without capabilities, behind an init', () => {
    expect(breaking(({ user }) => user !== undefined && !/^(root|0)(:|$)/.test(user))).toEqual([]);
    expect(breaking(({ cap_drop, security_opt, init }) => cap_drop?.[0] === 'ALL' && security_opt?.[0] === 'no-new-privileges:true' && init === true)).toEqual(
      [],
    );
    expect(read('Dockerfile')).toMatch(/^USER node$/m);
  });

  test('cannot write into its image, but the Temporal server, whose entrypoint does', () => {
    expect(breaking(({ read_only }) => read_only === true)).toEqual(['temporal']);
  });

  test('is restarted, and tells how it is when it keeps running', () => {
    expect(running.filter(([, { healthcheck, restart }]) => !healthcheck || restart !== 'unless-stopped').map(([name]) => name)).toEqual([]);
    for (const name of JOBS) expect(serviceOf(name).restart).toMatch(/^on-failure/);
  });

  test('waits for what it needs: jobs to be done, servers to be well', () => {
    for (const [name, { depends_on = {} }] of services)
      for (const [other, { condition }] of Object.entries(depends_on))
        expect(`${name} waits for ${other}: ${condition}`).toBe(
          `${name} waits for ${other}: ${JOBS.includes(other) ? 'service_completed_successfully' : 'service_healthy'}`,
        );
    for (const name of ['serve', 'worker'])
      expect(Object.keys(serviceOf(name).depends_on ?? {})).toEqual(expect.arrayContaining(['migrate', 'temporal-namespace']));
  });

  test('is published on loopback, and only the API and Temporal Web are', () => {
    const ports = services.flatMap(([name, { ports = [] }]) => ports.map((port) => [name, port]));
    expect(ports).toEqual([
      ['temporal-ui', '127.0.0.1:8233:8080'],
      ['serve', '127.0.0.1:7390:7390'],
    ]);
  });
});

describe('the processes of Holdpoint', () => {
  test('share the public keys alone: the worker reads them, and has neither signing keys, checkpoints, nor secrets of serve', () => {
    const [serve, worker] = [serviceOf('serve'), serviceOf('worker')];
    const shared = mountsOf(worker).filter((mount) => isNamedVolume(mount) && mountsOf(serve).some(({ source }) => source === mount.source));
    expect(shared).toEqual([{ source: 'public-keys', target: '/var/lib/holdpoint/public', readOnly: true }]);
    expect(serve.environment?.HOLDPOINT_JWKS).toBe(worker.environment?.HOLDPOINT_JWKS);
    expect(worker.secrets).toEqual(['worker_db_password']);
    expect(serve.secrets).toEqual(['serve_db_password', 'identities']);
    expect(Object.keys(serve.environment ?? {}).filter((name) => /EFFECTS|EXAMPLE|SMTP/.test(name))).toEqual([]);
    expect(Object.keys(worker.environment ?? {}).filter((name) => /KEYS_DIR|CHECKPOINTS|IDENTITIES/.test(name))).toEqual([]);
    expect(mountsOf(worker).map(({ source }) => source)).not.toContain('serve-keys');
  });

  test('keep private keys and checkpoints in volumes of their own, made by the image for its user alone', () => {
    const { environment = {} } = serviceOf('serve');
    const targets = mountsOf(serviceOf('serve')).map(({ target }) => target);
    expect(targets).toEqual(expect.arrayContaining([environment.HOLDPOINT_KEYS_DIR, environment.HOLDPOINT_CHECKPOINTS_DIR]));
    for (const target of [environment.HOLDPOINT_KEYS_DIR, environment.HOLDPOINT_CHECKPOINTS_DIR])
      expect(read('Dockerfile')).toMatch(new RegExp(`-m 0700 .*${target}`));
  });

  test('see nothing of the superuser, and only migrate sees the owner of the database', () => {
    expect(services.filter(([, { secrets = [] }]) => secrets.includes('postgres_password')).map(([name]) => name)).toEqual(['postgres']);
    expect(services.filter(([, { secrets = [] }]) => secrets.includes('owner_db_password')).map(([name]) => name)).toEqual(['postgres', 'migrate']);
  });

  test.each([
    ['migrate', ['cli/commands/migrate.ts', 'adapters/secrets.ts']],
    ['serve', ['server/config.ts', 'adapters/secrets.ts']],
    ['worker', ['worker/config.ts', 'adapters/secrets.ts', 'adapters/example-tools/effects.ts']],
  ])('%s is given no variable that it does not read', (name, sources) => {
    const temporal = ['TEMPORAL_ADDRESS', 'TEMPORAL_NAMESPACE'];
    const text = sources.map(read).join('\n');
    const given = Object.keys(serviceOf(name).environment ?? {});
    expect(given.length).toBeGreaterThan(3);
    expect(given.filter((variable) => !temporal.includes(variable) && !new RegExp(`\\b${variable}\\b`).test(text))).toEqual([]);
  });

  test('get longer to stop than a worker gives its tools', () => {
    const force = Number(/FORCE_AFTER_GRACE = '(\d+)s'/.exec(read('worker/index.ts'))?.[1]);
    expect(force).toBeGreaterThan(0);
    expect(Number.parseInt(serviceOf('worker').stop_grace_period ?? '', 10)).toBeGreaterThan(force);
  });
});

describe('Temporal', () => {
  test('is set up by its admin tools, of the version of the server', () => {
    const version = serviceOf('temporal').image.split(':')[1];
    for (const name of ['temporal-schema', 'temporal-namespace']) expect(serviceOf(name).image).toMatch(new RegExp(`^temporalio/admin-tools:${version}-`));
    expect(serviceOf('temporal-schema').entrypoint?.at(-1)).toBe('/setup/setup-schema.sh');
    expect(serviceOf('temporal-namespace').entrypoint?.at(-1)).toBe('/setup/create-namespace.sh');
  });

  test('has a web interface that changes nothing', () => {
    expect(serviceOf('temporal-ui').environment?.TEMPORAL_DISABLE_WRITE_ACTIONS).toBe('true');
  });

  test('reads the dynamic configuration that is mounted', () => {
    const { environment = {} } = serviceOf('temporal');
    const mount = mountsOf(serviceOf('temporal')).find(({ target }) => target === environment.DYNAMIC_CONFIG_FILE_PATH);
    expect(mount?.source).toBe('./deploy/temporal/dynamic-config.yaml');
    const settings = parse(read('deploy/temporal/dynamic-config.yaml')) as Record<string, { value: unknown }[]>;
    expect(settings['system.enableActivityEagerExecution']?.[0]?.value).toBe(true);
    expect(settings['history.transferProcessorMaxPollRPS']?.[0]?.value).toBe(2000);
    for (const name of ['matching.numTaskqueueReadPartitions', 'matching.numTaskqueueWritePartitions']) expect(settings[name]?.[0]?.value).toBe(1);
  });
});

test('what goes into the image holds no secret and no test', () => {
  const lines = read('.dockerignore')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
  expect(lines[0]).toBe('*');
  const kept = lines.slice(1).map((line) => line.replace(/^!/, ''));
  expect(kept.filter((name) => /secret|env|test|\.git|\.npmrc|deploy/.test(name))).toEqual([]);
  for (const name of kept) expect(existsSync(join(ROOT, name)), name).toBe(true);
  const folders = (JSON.parse(read('tsconfig.build.json')) as { include: string[] }).include;
  expect(kept).toEqual(expect.arrayContaining(folders));
});

test('every secret of the compose file is made by make-secrets', () => {
  const script = read('deploy/make-secrets.mjs');
  for (const name of Object.keys(compose.secrets)) expect(script).toContain(`'${secretFile(name)}'`);
});
