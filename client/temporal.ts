/** The Temporal side of `serve`: starts registered runs, delivers decisions, looks whether runs are still there. */
import { Client, Connection, isGrpcServiceError, ServiceError, WorkflowNotFoundError } from '@temporalio/client';
import { encodeWorkflowIdConflictPolicy, encodeWorkflowIdReusePolicy, type Payload } from '@temporalio/common';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import type { RunFile } from '../core/contracts.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { label } from '../core/text.ts';
import { SEARCH_ATTRIBUTES } from '../core/words.ts';

export type TemporalClient = Client;

/** gRPC status codes that say something about the run rather than about the server. */
const INVALID_ARGUMENT = 3;
const ALREADY_EXISTS = 6;

const CALL_TIMEOUT_MS = 10_000;
const WORKFLOW_TYPE = 'agentRun';

/**
 * Connects as the standard Temporal environment says (`TEMPORAL_ADDRESS`, `TEMPORAL_NAMESPACE`, TLS, `TEMPORAL_API_KEY`).
 *
 * @param env read instead of the process's environment
 * @throws HoldpointError `temporal_unreachable`
 */
export async function connectTemporal(env?: Record<string, string>): Promise<TemporalClient> {
  const { connectionOptions, namespace } = loadClientConnectConfig(env === undefined ? {} : { overrideEnvVars: env });
  try {
    const connection = await Connection.connect({ ...connectionOptions, connectTimeout: CALL_TIMEOUT_MS } as NonNullable<
      Parameters<typeof Connection.connect>[0]
    >);
    return new Client({ connection, ...(namespace === undefined ? {} : { namespace }) });
  } catch (error) {
    throw unreachable(error, `cannot connect to ${connectionOptions.address ?? 'localhost:7233'}`);
  }
}

export interface StartRequest {
  run_id: string;
  /** UUID. Repeating a start with the same one answers with the same execution, also after the run has closed. */
  start_request_id: string;
  task_queue: string;
  input: RunFile;
  /** One line, at most 200 bytes, and Markdown, at most 20 KB; for Temporal Web. */
  summary: string;
  details: string;
}

/**
 * Starts the workflow of a registered run, once.
 *
 * @returns id of the first execution of the run's chain
 * @throws HoldpointError `idempotency_conflict` when another workflow has the run's id, `temporal_unreachable`
 */
export async function startRegisteredRun(client: TemporalClient, request: StartRequest): Promise<string> {
  try {
    return await startWorkflow(client, request);
  } catch (error) {
    if (codeOf(error) === ALREADY_EXISTS) return startedBefore(client, request);
    if (codeOf(error) === INVALID_ARGUMENT)
      throw new HoldpointError('invalid_run', `Temporal refuses the start of ${request.run_id}: ${detailOf(error)}`, { cause: error });
    throw unreachable(error, `cannot start ${request.run_id}`);
  }
}

async function startWorkflow(client: TemporalClient, request: StartRequest): Promise<string> {
  const [input, summary, details] = await Promise.all([request.input, request.summary, request.details].map((value) => encode(client, value)));
  const start = {
    namespace: client.options.namespace,
    identity: client.options.identity,
    requestId: request.start_request_id,
    workflowId: request.run_id,
    workflowType: { name: WORKFLOW_TYPE },
    taskQueue: { name: request.task_queue },
    workflowIdReusePolicy: encodeWorkflowIdReusePolicy('REJECT_DUPLICATE') ?? null,
    workflowIdConflictPolicy: encodeWorkflowIdConflictPolicy('FAIL') ?? null,
    input: { payloads: [input ?? null].filter((payload) => payload !== null) },
    userMetadata: { summary: summary ?? null, details: details ?? null },
  };
  const searchAttributes = (await hasSearchAttributes(client)) ? { indexedFields: attributesOf(request) } : null;
  const send = (more: object) => withDeadline(client, () => client.workflowService.startWorkflowExecution({ ...start, ...more }));
  try {
    return (await send({ searchAttributes })).runId;
  } catch (error) {
    if (searchAttributes === null || codeOf(error) !== INVALID_ARGUMENT) throw error;
    // Somebody may have removed them: no reason to refuse a run.
    attributesSeen.delete(client);
    return (await send({})).runId;
  }
}

/** Number of Temporal's type Keyword. */
const KEYWORD = 2;
/** A namespace that lacks them may get them from a worker that starts later. */
const ASK_AGAIN_MS = 10_000;
const attributesSeen = new WeakMap<TemporalClient, { there: boolean; at: number }>();

/** Whether runs can be given our search attributes at their start, which saves each run an upsert. False where this may not be asked. */
async function hasSearchAttributes(client: TemporalClient): Promise<boolean> {
  const seen = attributesSeen.get(client);
  if (seen?.there === true || (seen && performance.now() - seen.at < ASK_AGAIN_MS)) return seen.there;
  let there = false;
  try {
    const { namespace } = client.options;
    const { customAttributes } = await withDeadline(client, () => client.connection.operatorService.listSearchAttributes({ namespace }));
    there = Object.values(SEARCH_ATTRIBUTES).every((name) => customAttributes?.[name] === KEYWORD);
  } catch {
    // Not allowed, or no such service: the run sets them itself if its worker says that it can.
  }
  attributesSeen.set(client, { there, at: performance.now() });
  return there;
}

function attributesOf({ input }: StartRequest): Record<string, Payload> {
  const text = new TextEncoder();
  const keyword = (value: string): Payload => ({
    metadata: { encoding: text.encode('json/plain'), type: text.encode('Keyword') },
    data: text.encode(JSON.stringify(value)),
  });
  return { [SEARCH_ATTRIBUTES.status]: keyword('running'), [SEARCH_ATTRIBUTES.agent]: keyword(label(input.agent)) };
}

async function encode(client: TemporalClient, value: unknown): Promise<Payload | undefined> {
  const { payloadConverter, payloadCodecs } = client.options.loadedDataConverter;
  let payloads = [payloadConverter.toPayload(value)];
  for (const codec of payloadCodecs) payloads = await codec.encode(payloads);
  return payloads[0];
}

/** The id is taken. It is this start's own run only when Temporal holds our request id for its first execution. */
async function startedBefore(client: TemporalClient, request: StartRequest): Promise<string> {
  const current = await describe(client, request.run_id);
  const first = current?.workflowExecutionInfo?.firstRunId;
  const described = first ? await describe(client, request.run_id, first) : undefined;
  if (first && Object.hasOwn(described?.workflowExtendedInfo?.requestIdInfos ?? {}, request.start_request_id)) return first;
  throw new HoldpointError('idempotency_conflict', `another workflow has the id ${request.run_id}`, { details: { run_id: request.run_id } });
}

/**
 * Signals a decision to its run.
 *
 * @returns `gone` when no execution of that id is open
 * @throws HoldpointError `temporal_unreachable` when it has to be tried again
 */
export async function deliverDecision(
  client: TemporalClient,
  decision: { run_id: string; outcome: 'approved' | 'denied'; pending_id: string; token: string },
): Promise<'delivered' | 'gone'> {
  const signal = decision.outcome === 'approved' ? 'approval_granted' : 'approval_denied';
  return tell(client, decision.run_id, (handle) => handle.signal<unknown[]>(signal, { pending_id: decision.pending_id, token: decision.token }));
}

/**
 * Asks the run to cancel. It closes its requests and records its end before it closes.
 *
 * @returns `gone` when no workflow ever had the id; Temporal takes the cancellation of a closed one without a word
 */
export async function cancelRun(client: TemporalClient, runId: string): Promise<'delivered' | 'gone'> {
  return tell(client, runId, (handle) => handle.cancel());
}

/** Makes a waiting run ask the gateway again. */
export async function notifyControls(client: TemporalClient, runId: string): Promise<'delivered' | 'gone'> {
  return tell(client, runId, (handle) => handle.signal('controls_changed'));
}

type Handle = ReturnType<Client['workflow']['getHandle']>;

async function tell(client: TemporalClient, runId: string, send: (handle: Handle) => Promise<unknown>): Promise<'delivered' | 'gone'> {
  try {
    await withDeadline(client, () => send(client.workflow.getHandle(runId)));
    return 'delivered';
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return 'gone';
    throw unreachable(error, `cannot reach run ${runId}`);
  }
}

/**
 * Whether a run's workflow is open. A run that continued as new is, however many executions it has had.
 *
 * @param firstExecutionId absent = whatever has the id now; otherwise an execution of another chain is not the run
 * @returns Temporal's name of the status when it is closed (`COMPLETED`, `TERMINATED`, ...)
 */
export async function describeRun(client: TemporalClient, runId: string, firstExecutionId?: string): Promise<'running' | { closed: string } | 'not_found'> {
  const current = await describe(client, runId);
  const chain = current?.workflowExecutionInfo?.firstRunId;
  if (current && (firstExecutionId === undefined || chain === firstExecutionId)) return standingOf(current);
  const own = firstExecutionId === undefined ? undefined : await describe(client, runId, firstExecutionId);
  return own ? standingOf(own) : 'not_found';
}

type Description = Awaited<ReturnType<Handle['describe']>>['raw'];

/** Names of Temporal's execution states by number. */
const STATUS_NAMES = ['UNSPECIFIED', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELED', 'TERMINATED', 'CONTINUED_AS_NEW', 'TIMED_OUT', 'PAUSED'];

function standingOf(description: Description): 'running' | { closed: string } {
  const name = STATUS_NAMES[description.workflowExecutionInfo?.status ?? 0] ?? 'UNSPECIFIED';
  return name === 'RUNNING' || name === 'PAUSED' ? 'running' : { closed: name };
}

async function describe(client: TemporalClient, workflowId: string, runId?: string): Promise<Description | undefined> {
  try {
    return (await withDeadline(client, () => client.workflow.getHandle(workflowId, runId).describe())).raw;
  } catch (error) {
    if (error instanceof WorkflowNotFoundError) return undefined;
    // No execution can have such an id: a workflow of somebody else may have claimed it.
    if (codeOf(error) === INVALID_ARGUMENT) return undefined;
    throw unreachable(error, `cannot look at run ${workflowId}`);
  }
}

function withDeadline<T>(client: TemporalClient, work: () => Promise<T>): Promise<T> {
  return client.withDeadline(Date.now() + CALL_TIMEOUT_MS, work);
}

function codeOf(error: unknown): number | undefined {
  if (error instanceof ServiceError) return codeOf(error.cause);
  return isGrpcServiceError(error) ? error.code : undefined;
}

function detailOf(error: unknown): string {
  if (error instanceof ServiceError && error.cause) return detailOf(error.cause);
  return isGrpcServiceError(error) ? error.details : messageOf(error);
}

function unreachable(error: unknown, what: string): HoldpointError {
  return new HoldpointError('temporal_unreachable', `${what}: ${detailOf(error)}`, {
    cause: error,
    hint: 'check TEMPORAL_ADDRESS and TEMPORAL_NAMESPACE, or start the stack: holdpoint up',
  });
}
