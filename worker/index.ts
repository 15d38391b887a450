/** A worker to embed: the package's `holdpoint/worker` entry. `holdpoint worker` is the same thing as a process. */
import { Worker } from '@temporalio/worker';
import { type Logger, pino } from 'pino';
import type { PlannerDefinition, ToolDefinition } from '../activities/define.ts';
import { createActivities } from '../activities/index.ts';
import type { Planners, Tools } from '../activities/ports.ts';
import { createPool, type Pool, refuseOldSchema } from '../adapters/database.ts';
import { hashing } from '../adapters/hashing.ts';
import { newId } from '../adapters/ids.ts';
import { createLedger } from '../adapters/ledger.ts';
import { loadPlanners } from '../adapters/planners.ts';
import { type WatchedPolicy, watchPolicy } from '../adapters/policy-watch.ts';
import { createVerifier } from '../adapters/tokens.ts';
import { loadTools, registerTools } from '../adapters/tools.ts';
import { dataConverter, loadWorkflowBundle } from './bundle.ts';
import type { WorkerConfig } from './config.ts';
import { answerHealth, type HealthAnswers } from './health.ts';
import { connectWorker, ensureSearchAttributes, executionsOf, searchAttributesCommand, type TemporalLink } from './temporal.ts';

export { definePlanner, defineTool, type PlannerDefinition, type ToolDefinition } from '../activities/define.ts';
export { readWorkerConfig, type WorkerConfig } from './config.ts';

export interface EmbeddedWorkerOptions {
  /** What `readWorkerConfig(process.env)` gives. */
  config: WorkerConfig;
  /** Tools defined in code; absent = the modules that `holdpoint.yaml` names. */
  tools?: ToolDefinition[];
  /** Planners defined in code, by name; absent = the modules that `holdpoint.yaml` names. */
  planners?: Record<string, PlannerDefinition>;
  /** Absent = silent. */
  log?: Logger;
  /** Ends the attempts to connect, before there is a worker to shut down. */
  signal?: AbortSignal;
}

export interface HoldpointWorker {
  /** Address of `/healthz`; absent when the configuration names no port for it. */
  readonly healthUrl: string | undefined;
  /** Works until `shutdown`; rejects when the worker breaks. Frees everything before it ends. */
  run(): Promise<void>;
  /** Takes no more work and gives what runs 30 seconds. */
  shutdown(): void;
}

/** Tools that outlive this are given up; the ledger knows what they had claimed. */
const GRACE = '30s';
const FORCE_AFTER_GRACE = '40s';
const MAX_ACTIVITIES = 100;

/**
 * Ten thousand signals, all that the server lets one execution have, may arrive in one workflow task and take more than the
 * SDK's limit of 5 s for it. Past that limit Node 20 ends the whole process ("async hook stack has become corrupted").
 * The option exists since long and is missing in the type.
 */
const SANDBOX_LIMIT: object = { isolateExecutionTimeout: '50s' };

/**
 * @throws HoldpointError `invalid_config`, `database_unreachable`, `temporal_unreachable`; nothing is left open then
 */
export async function createWorker(options: EmbeddedWorkerOptions): Promise<HoldpointWorker> {
  const { config, log = pino({ level: 'silent' }) } = options;
  const closers: (() => unknown)[] = [];
  const free = async (): Promise<void> => {
    for (const close of closers.splice(0).reverse()) await close();
  };
  try {
    const policy = await watchPolicy(config.policyFile, log);
    closers.push(() => policy.close());
    const [tools, planners] = await Promise.all([toolsOf(options, policy), plannersOf(options, policy)]);
    warnOf(policy, tools, log);
    const pool = await openPool(config);
    closers.push(() => pool.end());
    const link = await connectWorker({ onRetry: (message) => log.warn(message), signal: options.signal });
    closers.push(() => link.connection.close());
    const parts: Parts = { link, config, policy, tools, planners, pool, log };
    const worker = await temporalWorker(parts);
    const health = config.health && (await healthOf(worker, config.health, parts));
    if (health) closers.push(() => health.close());
    return { healthUrl: health?.url, run: () => runAndFree(worker, free), shutdown: () => stopOnce(worker) };
  } catch (error) {
    await free();
    throw error;
  }
}

async function runAndFree(worker: Worker, free: () => Promise<void>): Promise<void> {
  try {
    await worker.run();
  } finally {
    await free();
  }
}

function stopOnce(worker: Worker): void {
  if (worker.getState() === 'RUNNING') worker.shutdown();
}

interface Parts {
  link: TemporalLink;
  config: WorkerConfig;
  policy: WatchedPolicy;
  tools: Tools;
  planners: Planners;
  pool: Pool;
  log: Logger;
}

async function temporalWorker({ link, config, policy, tools, planners, pool, log }: Parts): Promise<Worker> {
  const searchAttributes = await ensureSearchAttributes(link);
  if (!searchAttributes)
    log.warn(
      { command: searchAttributesCommand(link.namespace) },
      'runs go without search attributes: this namespace lacks them and the worker may not add them',
    );
  const ports = { ledger: createLedger(pool), tools, planners, policy, tokens: createVerifier(config.jwksFile), hashing, newId, searchAttributes };
  const activities = createActivities(ports, executionsOf(link));
  return Worker.create({
    connection: link.connection,
    namespace: link.namespace,
    taskQueue: config.taskQueue,
    activities: { ...activities },
    workflowBundle: await loadWorkflowBundle(),
    dataConverter,
    identity: `holdpoint-worker ${process.pid}`,
    maxCachedWorkflows: config.maxCachedRuns,
    maxConcurrentActivityTaskExecutions: MAX_ACTIVITIES,
    // After a worker dies its runs wait this long for it before another takes them: the default of 10 s delays deadlines.
    stickyQueueScheduleToStartTimeout: '1s',
    shutdownGraceTime: GRACE,
    shutdownForceTime: FORCE_AFTER_GRACE,
    ...SANDBOX_LIMIT,
  });
}

function healthOf(worker: Worker, at: { host: string; port: number }, { pool, link, log }: Parts): Promise<HealthAnswers> {
  const checks = {
    worker: async () => {
      if (worker.getState() !== 'RUNNING') throw new Error(`its state is ${worker.getState()}`);
    },
    database: () => pool.query('SELECT 1'),
    temporal: () => link.connection.workflowService.describeNamespace({ namespace: link.namespace }),
  };
  return answerHealth(at, checks, log);
}

async function openPool(config: WorkerConfig): Promise<Pool> {
  const pool = createPool(config.databaseUrl, { name: 'holdpoint-worker', max: 20, pipeline: true });
  try {
    await refuseOldSchema(pool);
    return pool;
  } catch (error) {
    await pool.end();
    throw error;
  }
}

function toolsOf({ tools }: EmbeddedWorkerOptions, policy: WatchedPolicy): Promise<Tools> | Tools {
  return tools ? registerTools(tools) : loadTools(policy.first.tools);
}

async function plannersOf({ planners }: EmbeddedWorkerOptions, policy: WatchedPolicy): Promise<Planners> {
  return planners ? plannersInCode(planners) : loadPlanners(policy.first.planners);
}

/** A script needs no module, so the loader of modules still answers for scripts. */
async function plannersInCode(definitions: Readonly<Record<string, PlannerDefinition>>): Promise<Planners> {
  const others = await loadPlanners({});
  const byName = new Map(Object.entries(definitions));
  return {
    plan(planner, step, input) {
      const own = planner.type === 'module' ? byName.get(planner.name) : undefined;
      return own ? own.plan(input) : others.plan(planner, step, input);
    },
  };
}

function warnOf(policy: WatchedPolicy, tools: Tools, log: Logger): void {
  const unmatched = policy.first.unmatched(tools.list().map((tool) => tool.name));
  for (const problem of [...policy.first.warnings, ...unmatched]) log.warn({ ...problem }, 'holdpoint.yaml');
  log.info({ policy_hash: policy.first.policy_hash, tools: tools.list().map((tool) => tool.name) }, 'the policy is loaded');
}
