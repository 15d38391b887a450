/** Runs the real workflow on the real Temporal server with activities that answer from a script and note what they were asked. */
import { randomUUID } from 'node:crypto';
import { activityInfo } from '@temporalio/activity';
import { Client, type WorkflowHandle } from '@temporalio/client';
import { DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import { inject } from 'vitest';
import type {
  AgentActivities,
  CallInput,
  CallResult,
  CloseRequestInput,
  CloseRunResult,
  PendingView,
  PlannedCall,
  PlanResult,
  RequestState,
  RunResult,
  RunState,
  Stop,
  VerifyInput,
} from '../../core/run-contract.ts';
import type { StopReason } from '../../core/words.ts';
import { connect, connectionOptions, type TemporalEnvironment } from '../support/environment.ts';
import { eventually } from '../support/index.ts';

export type Verb = keyof AgentActivities;
export interface Note {
  verb: Verb;
  input: unknown;
}

export interface Script {
  /** Calls of each step; after the last the planner ends the run. */
  steps?: PlannedCall[][];
  plan?: (step: number) => PlanResult | Promise<PlanResult>;
  call: (input: CallInput, attempt: number) => CallResult | Promise<CallResult>;
  verify?: (input: VerifyInput) => RequestState[] | Promise<RequestState[]>;
  closeRun?: () => CloseRunResult;
  close?: (input: CloseRequestInput) => RequestState | Promise<RequestState>;
  open?: () => void;
  searchAttributes?: boolean;
}

export interface ScriptedRun {
  handle: WorkflowHandle;
  notes: Note[];
  asked<T = unknown>(verb: Verb): T[];
  state(): Promise<RunState>;
  waiting(): Promise<RunState>;
  result(): Promise<RunResult>;
  events(): Promise<string[]>;
  grant(pendingId: string, token?: string): Promise<void>;
  deny(pendingId: string, token?: string): Promise<void>;
}

export interface Harness {
  client: Client;
  taskQueue: string;
  worker: Worker;
  start(script: Script, options?: { input?: unknown; carried?: unknown; workflowId?: string }): Promise<ScriptedRun>;
  /** Gives a run that something else starts its script. */
  expectRun(workflowId: string, script: Script): ScriptedRun;
  stop(): Promise<void>;
}

export const call = (tool: string, args: unknown = {}): PlannedCall => ({ tool, args, reason: `because of ${tool}` });
export const executed = (): CallResult => ({ status: 'executed', args_hash: 'sha256:0', result: { status: 'ok', bytes: 2, sha256: 'sha256:0', head: '{}' } });
export const ready = (): CallResult => ({ status: 'ready', args_hash: 'sha256:0' });
export const stopOf = (reason: StopReason): Stop => ({ stop_reason: reason, reason: `it was ${reason}` });
export const stopped = (reason: StopReason): CallResult => ({ status: 'stopped', stop: stopOf(reason) });
export const refused = (final: boolean, reason: StopReason = 'policy_denied'): CallResult => ({ status: 'refused', final, stop: stopOf(reason) });
export const invalid = (): CallResult => ({ status: 'invalid', code: 'unknown_tool', reason: 'there is no such tool' });

export function request(input: { call_id: string; tool: string }, pendingId: string, remainingMs = 60_000, more: Partial<PendingView> = {}): PendingView {
  return {
    pending_id: pendingId,
    call_id: input.call_id,
    tool: input.tool,
    preview: `${input.tool} to somebody`,
    reason: 'writes need approval',
    rule: 'required_for',
    tier: 'default',
    args_hash: 'sha256:0',
    quorum: 1,
    missing: 1,
    expires_at: new Date(Date.now() + remainingMs).toISOString(),
    remaining_ms: remainingMs,
    ...more,
  };
}
export function waiting(input: { call_id: string; tool: string }, pendingId: string, remainingMs = 60_000, more: Partial<PendingView> = {}): CallResult {
  return { status: 'waiting', request: request(input, pendingId, remainingMs, more) };
}
export const open = (pendingId: string, remainingMs = 60_000): RequestState => ({
  pending_id: pendingId,
  status: 'open',
  missing: 1,
  quorum: 1,
  remaining_ms: remainingMs,
});
export const approved = (pendingId: string): RequestState => ({ pending_id: pendingId, status: 'approved', tokens: ['good'] });
export const refusedState = (pendingId: string, reason: StopReason, final = true): RequestState => ({
  pending_id: pendingId,
  status: 'refused',
  final,
  stop: stopOf(reason),
});

/** The usual gateway: each call asks, the token `good` lets it through. */
export const gated =
  (remainingMs?: number) =>
  (input: CallInput): CallResult =>
    input.tokens?.includes('good') ? executed() : waiting(input, pendingOf(input.call_id), remainingMs);
export const pendingOf = (callId: string): string => `apr_${callId.replace('.', '_')}`;

Runtime.install({ logger: new DefaultLogger('ERROR') });

const scripts = new Map<string, { script: Script; notes: Note[]; attempts: Map<string, number> }>();

function scripted() {
  const entry = scripts.get(activityInfo().workflowExecution?.workflowId ?? '');
  if (!entry) throw new Error('no script for this run');
  return entry;
}

const activities: AgentActivities = {
  async openRun(input) {
    const { script, notes } = scripted();
    notes.push({ verb: 'openRun', input });
    script.open?.();
    return { agent: 'bot', goal: 'to test', registered: true, search_attributes: script.searchAttributes ?? false };
  },
  async planNextStep(input) {
    const { script, notes } = scripted();
    notes.push({ verb: 'planNextStep', input });
    if (script.plan) return script.plan(input.step);
    const calls = script.steps?.[input.step - 1];
    return calls ? { status: 'calls', calls } : { status: 'done', result: 'all done' };
  },
  async callTool(input) {
    const { script, notes, attempts } = scripted();
    notes.push({ verb: 'callTool', input });
    const attempt = (attempts.get(input.call_id) ?? 0) + 1;
    attempts.set(input.call_id, attempt);
    return script.call(input, attempt);
  },
  async verifyDecisions(input) {
    const { script, notes } = scripted();
    notes.push({ verb: 'verifyDecisions', input });
    return { requests: script.verify ? await script.verify(input) : input.open.map((id) => open(id)) };
  },
  async closeRequest(input) {
    const { script, notes } = scripted();
    notes.push({ verb: 'closeRequest', input });
    if (script.close) return script.close(input);
    return refusedState(input.pending_id, input.why === 'deadline' ? 'approval_timeout' : 'cancelled');
  },
  async closeRun(input) {
    const { script, notes } = scripted();
    notes.push({ verb: 'closeRun', input });
    if (script.closeRun) return script.closeRun();
    return { usage: { steps: 1, tool_calls: 1, active_seconds: 0.5, usd: 0 } };
  },
};

export async function startHarness(options: { temporal?: TemporalEnvironment; maxCachedWorkflows?: number } = {}): Promise<Harness> {
  const environment = options.temporal ?? inject('temporalEnvironment');
  const taskQueue = `workflow-test-${randomUUID()}`;
  const [native, connection] = await Promise.all([NativeConnection.connect(connectionOptions(environment)), connect(environment)]);
  const worker = await Worker.create({
    connection: native,
    taskQueue,
    activities,
    workflowBundle: { codePath: inject('workflowBundlePath') },
    maxCachedWorkflows: options.maxCachedWorkflows ?? 100,
    stickyQueueScheduleToStartTimeout: '1s',
  });
  const running = worker.run();
  const client = new Client({ connection });
  const expectRun = (workflowId: string, script: Script): ScriptedRun => {
    const entry = { script, notes: [] as Note[], attempts: new Map<string, number>() };
    scripts.set(workflowId, entry);
    return runOf(client.workflow.getHandle(workflowId), entry.notes);
  };
  return {
    client,
    taskQueue,
    worker,
    expectRun,
    async start(script, { input = { goal: 'x' }, carried, workflowId = `run_${randomUUID()}` } = {}) {
      const run = expectRun(workflowId, script);
      await client.workflow.start('agentRun', { workflowId, taskQueue, args: carried === undefined ? [input] : [input, carried] });
      return run;
    },
    async stop() {
      worker.shutdown();
      await running;
      await connection.close();
      await native.close();
    },
  };
}

function runOf(handle: WorkflowHandle, notes: Note[]): ScriptedRun {
  const state = (): Promise<RunState> => handle.query<RunState>('state');
  return {
    handle,
    notes,
    asked: <T>(verb: Verb) => notes.filter((note) => note.verb === verb).map((note) => note.input as T),
    state,
    waiting: () =>
      eventually(async () => {
        const now = await state();
        return now.status === 'waiting' ? now : undefined;
      }, 'the run waits'),
    result: () => handle.result() as Promise<RunResult>,
    async events() {
      const history = await handle.fetchHistory();
      return (history.events ?? []).map(
        (event) =>
          Object.keys(event)
            .find((key) => key.endsWith('EventAttributes'))
            ?.replace('EventAttributes', '') ?? '?',
      );
    },
    grant: (pendingId, token = 'good') => handle.signal<unknown[]>('approval_granted', { pending_id: pendingId, token }),
    deny: (pendingId, token = 'good') => handle.signal<unknown[]>('approval_denied', { pending_id: pendingId, token }),
  };
}
