/** The two production processes, each started, stopped and killed on its own, on a database of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { openSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { Client, type Connection } from '@temporalio/client';
import { inject } from 'vitest';
import { createPool, type Pool } from '../../adapters/database.ts';
import { HoldpointClient } from '../../client/index.ts';
import type { RunView } from '../../client/types.ts';
import type { RunFile } from '../../core/contracts.ts';
import { connect, type TemporalEnvironment } from '../support/environment.ts';
import { eventually, freshDatabase, temporaryFolder, type TestDatabase } from '../support/index.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

export interface Effect {
  tool: string;
  args: Record<string, unknown>;
  run_id: string;
  call_id: string;
  idempotency_key: string;
}

export interface PartsOptions {
  /** Policy file; the tools are the examples. */
  config?: string;
  /** The standard Temporal environment of another server than the test run's. */
  temporal?: TemporalEnvironment;
  /** Superuser's address of another PostgreSQL server than the test run's, with the template. */
  databaseServer?: string;
  /** More variables for one of the processes. */
  worker?: Record<string, string>;
  serve?: Record<string, string>;
}

const key = (letter: string): string => `hp_${letter.repeat(43)}`;
const KEYS = { operator: key('o'), approver: key('a'), second: key('s') };

/** Runs on the test run's Temporal server unless told otherwise, with a task queue of their own. */
export class Parts {
  readonly folder: string;
  readonly database: TestDatabase;
  readonly admin: Pool;
  readonly taskQueue = `fault-${randomUUID()}`;
  readonly #remove: () => Promise<void>;
  readonly #children = new Map<string, ChildProcess>();
  #options: PartsOptions;
  #apiUrl = '';
  #connection: Connection | undefined;

  private constructor(folder: { path: string; remove: () => Promise<void> }, database: TestDatabase, options: PartsOptions) {
    this.folder = folder.path;
    this.#remove = folder.remove;
    this.database = database;
    this.#options = options;
    this.admin = createPool(database.adminUrl, { name: 'test-admin', max: 4 });
  }

  /** Both processes running. */
  static async start(options: PartsOptions = {}): Promise<Parts> {
    const parts = new Parts(await temporaryFolder('holdpoint-parts-'), await freshDatabase(options.databaseServer), options);
    await parts.#prepare();
    await parts.startServe();
    await parts.startWorker();
    return parts;
  }

  async #prepare(): Promise<void> {
    await mkdir(join(this.folder, 'keys'), { mode: 0o700 });
    await mkdir(join(this.folder, 'checkpoints'));
    const hash = (secret: string): string => createHash('sha256').update(secret).digest('hex');
    const identities = [
      { principal: 'olga', roles: ['operator'], key_sha256: hash(KEYS.operator) },
      { principal: 'alice', roles: ['approver'], key_sha256: hash(KEYS.approver) },
      { principal: 'bob', roles: ['approver'], key_sha256: hash(KEYS.second) },
    ];
    await writeFile(join(this.folder, 'identities.json'), JSON.stringify({ identities }), { mode: 0o600 });
    await this.usePolicy(this.#options.config ?? '');
  }

  /** Takes effect at the next start of a process. */
  async usePolicy(yaml: string): Promise<void> {
    await writeFile(join(this.folder, 'holdpoint.yaml'), `tools: ["holdpoint:examples"]\n${yaml}`);
  }

  #environment(databaseUrl: string): Record<string, string> {
    return {
      PATH: process.env.PATH ?? '',
      DATABASE_URL: databaseUrl,
      ...this.temporalEnvironment,
      HOLDPOINT_TASK_QUEUE: this.taskQueue,
      HOLDPOINT_CONFIG: join(this.folder, 'holdpoint.yaml'),
      HOLDPOINT_JWKS: join(this.folder, 'jwks.json'),
      LOG_LEVEL: 'warn',
    };
  }

  get temporalEnvironment(): TemporalEnvironment {
    return this.#options.temporal ?? inject('temporalEnvironment');
  }

  async startServe(extra: Record<string, string> = {}): Promise<void> {
    const ready = await this.#spawn('serve', {
      ...this.#environment(this.database.serveUrl),
      HOLDPOINT_KEYS_DIR: join(this.folder, 'keys'),
      HOLDPOINT_CHECKPOINTS_DIR: join(this.folder, 'checkpoints'),
      HOLDPOINT_IDENTITIES: join(this.folder, 'identities.json'),
      PORT: '0',
      ...this.#options.serve,
      ...extra,
    });
    this.#apiUrl = String(ready.api_url);
  }

  async startWorker(extra: Record<string, string> = {}): Promise<void> {
    await this.#spawn('worker', {
      ...this.#environment(this.database.workerUrl),
      HOLDPOINT_EFFECTS_FILE: join(this.folder, 'effects.jsonl'),
      HOLDPOINT_EXAMPLE_DATABASE_URL: this.database.examplesUrl,
      ...this.#options.worker,
      ...extra,
    });
  }

  async #spawn(name: 'serve' | 'worker', env: Record<string, string>): Promise<Record<string, unknown>> {
    const log = join(this.folder, `${name}.log`);
    const child = spawn(process.execPath, [join(ROOT, 'dist/cli/main.js'), name], { env, stdio: ['ignore', 'pipe', openSync(log, 'a')] });
    this.#children.set(name, child);
    const line = await new Promise<string>((resolve, reject) => {
      if (child.stdout) createInterface({ input: child.stdout }).once('line', resolve);
      child.once('close', (code) => void readFile(log, 'utf8').then((text) => reject(new Error(`${name} ended with ${code}: ${text}`))));
    });
    return JSON.parse(line) as Record<string, unknown>;
  }

  async stop(name: 'serve' | 'worker', signal: NodeJS.Signals = 'SIGKILL'): Promise<void> {
    const child = this.#children.get(name);
    this.#children.delete(name);
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const closed = once(child, 'close');
    child.kill(signal);
    await closed;
  }

  /** Resolves when the process has died by itself. */
  async died(name: 'serve' | 'worker'): Promise<void> {
    const child = this.#children.get(name);
    if (child && child.exitCode === null && child.signalCode === null) await once(child, 'close');
    this.#children.delete(name);
  }

  pid(name: 'serve' | 'worker'): number {
    return this.#children.get(name)?.pid ?? 0;
  }

  as(who: keyof typeof KEYS): HoldpointClient {
    return new HoldpointClient({ url: this.#apiUrl, apiKey: KEYS[who] });
  }

  async temporal(): Promise<Client> {
    this.#connection ??= await connect(this.temporalEnvironment);
    return new Client({ connection: this.#connection });
  }

  /** Starts a run of these calls, one per step, and answers as soon as it waits or stops. */
  async run(calls: { tool: string; args: unknown }[], more: Partial<RunFile> = {}): Promise<RunView> {
    return this.as('operator').startRun({ agent: 'support', requester: 'rita', planner: { type: 'script', calls }, ...more }, { wait: 30 });
  }

  async stopped(runId: string, timeoutMs = 45_000): Promise<RunView> {
    return eventually(
      async () => {
        const view = await this.as('operator').getRun(runId);
        return view.status === 'stopped' ? view : undefined;
      },
      `run ${runId} stops`,
      timeoutMs,
    );
  }

  async effects(runId?: string): Promise<Effect[]> {
    const text = await readFile(join(this.folder, 'effects.jsonl'), 'utf8').catch(() => '');
    const all = text
      .split('\n')
      .filter(Boolean)
      .map((line) => JSON.parse(line) as Effect);
    return runId === undefined ? all : all.filter((effect) => effect.run_id === runId);
  }

  /** Outcomes of a run's audit events in order, refusals with their reason. */
  async events(runId: string): Promise<string[]> {
    const { rows } = await this.admin.query<{ outcome: string; reason: string }>('SELECT outcome, reason FROM audit_events WHERE run_id = $1 ORDER BY seq', [
      runId,
    ]);
    return rows.map(({ outcome, reason }) => (outcome === 'deny' || outcome === 'decision_rejected' ? `${outcome}:${reason}` : outcome));
  }

  async close(): Promise<void> {
    await Promise.all([this.stop('serve'), this.stop('worker')]);
    await this.#connection?.close();
    await this.admin.end();
    await this.database.drop();
    await this.#remove();
  }
}

export const MAIL = { to: 'ann@example.com', subject: 'Refund', body: 'It is on its way' };
export const SEND = { tool: 'email.send', args: MAIL };
export const WRITE = { tool: 'db.write', args: { key: 'k', value: 1 } };

/** The request that a run waits for. */
export function pendingOf(run: RunView): string {
  if (run.pending_id === null) throw new Error(`the run does not wait: ${JSON.stringify(run)}`);
  return run.pending_id;
}
