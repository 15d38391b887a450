/** The processes of docker-compose.yml without containers: their environment and commands, on folders and loopback ports of this machine. */
import { type ChildProcess, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import { promisify } from 'node:util';
import pg from 'pg';
import { startPostgres, stopPostgres } from '../../cli/stack/postgres.ts';
import { eventually } from '../support/index.ts';
import { isNamedVolume, mountsOf, ROOT, secretFile, serviceOf } from './stack.ts';

const MAIN = join(ROOT, 'dist/cli/main.js');

export type Name = 'migrate' | 'serve' | 'worker';

export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface Running {
  child: ChildProcess;
  /** What the first line on stdout says. */
  ready: Record<string, string>;
  stop(): Promise<number | null>;
}

/** PostgreSQL of its own, since roles belong to a whole server, prepared as the container prepares its volume. */
export class NativeStack {
  readonly folder: string;
  readonly #temporal: Record<string, string>;
  #postgres: Awaited<ReturnType<typeof startPostgres>> | undefined;
  #port = 0;
  readonly #children = new Set<ChildProcess>();

  /** @param temporal how the test run's Temporal server is reached */
  constructor(folder: string, temporal: Record<string, string>) {
    this.folder = folder;
    this.#temporal = temporal;
  }

  get #server(): Awaited<ReturnType<typeof startPostgres>> {
    if (!this.#postgres) throw new Error('PostgreSQL was not started');
    return this.#postgres;
  }

  /** `psql` would put the secrets in for `:'name'`. */
  async prepareDatabase(): Promise<void> {
    await mkdir(join(this.folder, 'pg'));
    await this.startDatabase();
    let sql = await readFile(join(ROOT, 'deploy/postgres/roles.sql'), 'utf8');
    for (const [name, secret] of [
      ['temporal_password', 'temporal_db_password'],
      ['owner_password', 'owner_db_password'],
    ] as const)
      sql = sql.replace(`:'${name}'`, pg.escapeLiteral((await this.secret(secret)).trim()));
    // The embedded server comes with an empty database of the same name.
    await this.asSuperuser('DROP DATABASE holdpoint');
    for (const statement of sql.replace(/^--.*$/gm, '').split(/;\s*$/m)) if (statement.trim() !== '') await this.asSuperuser(statement);
  }

  async startDatabase(): Promise<void> {
    this.#postgres = await startPostgres(
      { folder: join(this.folder, 'pg'), logFile: join(this.folder, 'postgres.log'), port: this.#port, unsafeFast: true },
      () => {},
    );
    this.#port = Number(new URL(this.#server.adminUrl).port);
  }

  async stopDatabase(): Promise<void> {
    await stopPostgres(this.#server.process);
  }

  /** Statements in the database `postgres`, or another. */
  async asSuperuser(sql: string, database = 'postgres'): Promise<unknown[]> {
    const url = new URL(this.#server.adminUrl);
    url.pathname = `/${database}`;
    return query(url.href, sql);
  }

  /** Address of a database as another role. */
  address(role: string, password: string, database = 'holdpoint'): string {
    return `postgres://${role}:${password}@127.0.0.1:${this.#port}/${database}`;
  }

  secretPath(name: string): string {
    return join(this.folder, 'secrets', secretFile(name));
  }

  secret(name: string): Promise<string> {
    return readFile(this.secretPath(name), 'utf8');
  }

  /** What the container's environment says, with this machine's paths, ports and hosts in it. */
  async environment(name: Name): Promise<Record<string, string>> {
    const service = serviceOf(name);
    const places = (service.secrets ?? []).map((secret) => ({ target: `/run/secrets/${secret}`, path: this.secretPath(secret) }));
    for (const mount of mountsOf(service)) {
      const path = isNamedVolume(mount) ? join(this.folder, 'volumes', mount.source) : join(ROOT, mount.source);
      if (isNamedVolume(mount)) await mkdir(path, { recursive: true, mode: 0o700 });
      places.push({ target: mount.target, path });
    }
    const here = (value: string): string => {
      const place = places.find(({ target }) => value === target || value.startsWith(`${target}/`));
      if (place) return place.path + value.slice(place.target.length);
      return value.replace('@postgres:5432', `@127.0.0.1:${this.#port}`);
    };
    const entries = Object.entries(service.environment ?? {}).map(([variable, value]) => [variable, variable.endsWith('PORT') ? '0' : here(value)]);
    // The Temporal server has an address of its own here, and other users; all else is the container's.
    const temporal = service.environment?.TEMPORAL_ADDRESS === 'temporal:7233' ? { ...this.#temporal, HOLDPOINT_TASK_QUEUE: `compose-${this.folder}` } : {};
    return { PATH: process.env.PATH ?? '', NODE_ENV: 'production', ...Object.fromEntries(entries), ...temporal };
  }

  async #spawn(name: Name, more: Record<string, string>): Promise<{ child: ChildProcess; output: Ended; closed: Promise<unknown> }> {
    const env = { ...(await this.environment(name)), ...more };
    const child = spawn(process.execPath, [MAIN, ...(serviceOf(name).command ?? [])], { cwd: '/', env, stdio: ['ignore', 'pipe', 'pipe'] });
    this.#children.add(child);
    const output: Ended = { code: null, stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (text: string) => (output.stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (output.stderr += text));
    return { child, output, closed: once(child, 'close').then(([code]) => (output.code = code as number | null)) };
  }

  /** Runs the service to its end. */
  async run(name: Name, more: Record<string, string> = {}): Promise<Ended> {
    const { output, closed } = await this.#spawn(name, more);
    await closed;
    return output;
  }

  async start(name: 'serve' | 'worker', more: Record<string, string> = {}): Promise<Running> {
    const { child, output, closed } = await this.#spawn(name, more);
    const line = await eventually(() => {
      if (child.exitCode !== null) throw new Error(`${name} ended with ${child.exitCode}: ${output.stderr}`);
      return output.stdout.includes('\n') ? output.stdout.split('\n')[0] : undefined;
    }, `${name} is ready`);
    const stop = async (): Promise<number | null> => {
      child.kill('SIGTERM');
      await closed;
      return output.code;
    };
    return { child, ready: JSON.parse(line) as Record<string, string>, stop };
  }

  /** Runs the container's healthcheck, asking another port than in the container. @returns its exit code */
  async healthcheck(name: 'serve' | 'worker', port: string): Promise<number> {
    const [kind, program, ...args] = serviceOf(name).healthcheck?.test ?? [];
    if (kind !== 'CMD' || program !== 'node') throw new Error(`the healthcheck of ${name} is of another kind`);
    const here = args.map((text) => text.replace(/127\.0\.0\.1:\d+/, `127.0.0.1:${port}`));
    return promisify(execFile)(process.execPath, here).then(
      () => 0,
      (error: { code: number }) => error.code,
    );
  }

  async close(): Promise<void> {
    for (const child of this.#children) if (child.exitCode === null && child.signalCode === null) child.kill('SIGKILL');
    await stopPostgres(this.#server.process);
  }

  get home(): string {
    return this.#server.home;
  }
}

export async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(sql)).rows as unknown[];
  } finally {
    await client.end();
  }
}

/** Makes `secrets/` in the folder. @returns the API keys that it printed */
export async function makeSecrets(folder: string): Promise<{ operator: string; approver: string }> {
  const { stdout } = await promisify(execFile)(process.execPath, [join(ROOT, 'deploy/make-secrets.mjs'), folder]);
  const key = (role: string): string => new RegExp(`^HOLDPOINT_${role}_KEY=(\\S+)$`, 'm').exec(stdout)?.[1] ?? '';
  return { operator: key('OPERATOR'), approver: key('APPROVER') };
}

export async function writeSecret(path: string, text: string): Promise<string> {
  await writeFile(path, text);
  return path;
}

/** A way to a server that can be shut: what comes through it is cut. */
export class Door {
  readonly #server = createServer((socket) => this.#pass(socket));
  readonly #sockets = new Set<Socket>();
  readonly #behind: URL;
  #shut = false;

  private constructor(address: string) {
    this.#behind = new URL(`tcp://${address}`);
  }

  static async to(address: string): Promise<Door> {
    const door = new Door(address);
    door.#server.listen(0, '127.0.0.1');
    await once(door.#server, 'listening');
    return door;
  }

  get address(): string {
    return `127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  #pass(socket: Socket): void {
    if (this.#shut) return void socket.destroy();
    const behind = connect(Number(this.#behind.port), this.#behind.hostname);
    for (const one of [socket, behind]) {
      this.#sockets.add(one);
      one.on('error', () => {}).once('close', () => [socket, behind].forEach((both) => both.destroy()));
    }
    socket.pipe(behind).pipe(socket);
  }

  shut(): void {
    this.#shut = true;
    for (const socket of this.#sockets) socket.destroy();
    this.#sockets.clear();
  }

  open(): void {
    this.#shut = false;
  }

  close(): void {
    this.shut();
    this.#server.close();
  }
}
