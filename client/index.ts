/** Client of Holdpoint's HTTP API. Needs nothing but `fetch`: runs in browsers, too. */
import type { DecisionOutcome, RequestStatus } from '../core/words.ts';
import type { RunFile } from '../core/contracts.ts';
import { ERROR_TABLE, type ErrorCode, HoldpointError, messageOf } from '../core/errors.ts';
import type { ApprovalView, AuditPage, AuditReport, ControlView, DecisionAnswer, RecordedCallsPage, RunView } from './types.ts';

export * from './types.ts';
export { HoldpointError, isHoldpointError, type ErrorCode } from '../core/errors.ts';
export type { AuditEvent } from '../core/audit.ts';
export type { HumanAnswer, RecordedCall } from '../core/replay.ts';
export type { CallSummary, PendingView, RunState, Usage } from '../core/run-contract.ts';
export type { AuditOutcome, DecisionOutcome, RequestStatus, StopReason } from '../core/words.ts';

/** What starts a run. `goal` and `ttl_seconds` (can only shorten the policy's) are optional. */
export type RunInput = RunFile;

export interface ClientOptions {
  /** Address of `holdpoint serve`, e.g. `http://127.0.0.1:7390`. */
  url: string;
  /** `hp_...`: says who you are. Absent = only what is open to everybody works. */
  apiKey?: string | undefined;
  /** Default: the global `fetch`. */
  fetch?: typeof fetch;
}

export interface WhoAmI {
  principal: string;
  roles: string[];
}

interface Call {
  method?: 'GET' | 'POST';
  query?: Record<string, string | number | undefined>;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal | undefined;
}

/**
 * Client of one server, as one principal.
 *
 * Every method throws {@link HoldpointError}: the server's own code, detail, hint and details; `server_unreachable`
 * with the address when nobody answered.
 */
export class HoldpointClient {
  readonly url: string;
  readonly #headers: Record<string, string>;
  readonly #fetch: typeof fetch;

  constructor(options: ClientOptions) {
    this.url = options.url.replace(/\/+$/, '');
    this.#headers = options.apiKey === undefined ? {} : { Authorization: `Bearer ${options.apiKey}` };
    const given = options.fetch;
    this.#fetch = given ?? ((...request) => fetch(...request));
  }

  /** Whose API key this is. */
  whoami(): Promise<WhoAmI> {
    return this.#json('/v1/whoami');
  }

  /**
   * Starts a run as its owner.
   *
   * @param options.wait seconds (at most 60) to wait for the run to stop or to ask somebody; 0 answers at once
   * @param options.idempotencyKey the same key and input answer with the same run; other input is `idempotency_conflict`
   */
  startRun(
    input: RunInput,
    options: { wait?: number | undefined; idempotencyKey?: string | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<RunView> {
    const headers = options.idempotencyKey === undefined ? {} : { 'Idempotency-Key': options.idempotencyKey };
    return this.#json('/v1/runs', { method: 'POST', body: input, query: { wait: options.wait }, headers, signal: options.signal });
  }

  /**
   * A run as the ledger shows it.
   *
   * @param options.wait seconds (at most 60) to wait until it is `settled` (waits for people or stopped) or `stopped`;
   *   when the time is over it answers with the run as it is
   */
  getRun(
    runId: string,
    options: { wait?: number | undefined; until?: 'settled' | 'stopped' | undefined; signal?: AbortSignal | undefined } = {},
  ): Promise<RunView> {
    return this.#json(`/v1/runs/${encodeURIComponent(runId)}`, { query: { wait: options.wait, until: options.until }, signal: options.signal });
  }

  /** Newest first. `limit`: at most 500, 50 unless told. */
  async listRuns(filter: { status?: RunView['status'] | undefined; limit?: number | undefined } = {}): Promise<RunView[]> {
    return (await this.#json<{ runs: RunView[] }>('/v1/runs', { query: filter })).runs;
  }

  /** Asks a run to stop: a call that executes is waited for, requests are closed. `run_stopped` when it has ended. */
  cancelRun(runId: string): Promise<RunView> {
    return this.#json(`/v1/runs/${encodeURIComponent(runId)}/cancel`, { method: 'POST' });
  }

  /** Approval requests, the most urgent first. `limit`: at most 200, 50 unless told. */
  async listApprovals(filter: { status?: RequestStatus | undefined; run?: string | undefined; limit?: number | undefined } = {}): Promise<ApprovalView[]> {
    return (await this.#json<{ approvals: ApprovalView[] }>('/v1/approvals', { query: filter })).approvals;
  }

  getApproval(pendingId: string): Promise<ApprovalView> {
    return this.#json(`/v1/approvals/${encodeURIComponent(pendingId)}`);
  }

  /**
   * Decides a request as the principal of the API key.
   *
   * @throws HoldpointError `not_eligible`, `decision_conflict` (`details.first`: the decision that counts),
   *   `request_closed`, `decision_late`, `args_mismatch`, `not_found`
   */
  decide(pendingId: string, decision: { outcome: DecisionOutcome; reason?: string | undefined }): Promise<DecisionAnswer> {
    return this.#json(`/v1/approvals/${encodeURIComponent(pendingId)}/decision`, { method: 'POST', body: decision });
  }

  /** The kill switch. `armed`: false means that holdpoint.yaml disables it. */
  controls(): Promise<{ armed: boolean; controls: ControlView[] }> {
    return this.#json('/v1/controls');
  }

  /** Engages or releases the kill switch for everything, one agent or one tool. */
  setControl(control: { engaged: boolean; agent?: string | undefined; tool?: string | undefined; reason?: string | undefined }): Promise<ControlView> {
    return this.#json('/v1/controls', { method: 'POST', body: control });
  }

  /** Audit events in order of time. `since`: ISO 8601. `limit`: at most 1000, 100 unless told. `cursor`: `next` of the page before. */
  audit(
    filter: {
      run?: string | undefined;
      since?: string | undefined;
      tool?: string | undefined;
      outcome?: string | undefined;
      cursor?: string | undefined;
      limit?: number | undefined;
    } = {},
  ): Promise<AuditPage> {
    return this.#json('/v1/audit', { query: filter });
  }

  /**
   * Calls that policy judged, with the arguments that it judged them by, in order of time. `since`: ISO 8601. `limit`: at most
   * 500, 100 unless told. `cursor`: `next` of the page before.
   */
  recordedCalls(
    filter: { run?: string | undefined; since?: string | undefined; cursor?: string | undefined; limit?: number | undefined } = {},
  ): Promise<RecordedCallsPage> {
    return this.#json('/v1/audit/calls', { query: filter });
  }

  /** Has the server verify the whole audit trail. An answer with findings is no error: look at `ok`. */
  verifyAudit(): Promise<AuditReport> {
    return this.#json('/v1/audit/verify');
  }

  /** Lines (JSON, `ExportLine`) of an export, without their line feeds. Breaks off with an error when it is not whole. */
  async *exportAudit(filter: { run?: string | undefined } = {}): AsyncGenerator<string> {
    const response = await this.#call('/v1/audit/export', { query: filter });
    if (!response.body) return;
    const reader = response.body.getReader();
    const decoder = new TextDecoder('utf-8', { fatal: true });
    let rest = '';
    try {
      for (let part = await reader.read(); !part.done; part = await reader.read()) {
        const lines = (rest + decoder.decode(part.value, { stream: true })).split('\n');
        rest = lines.pop() ?? '';
        yield* lines;
      }
    } catch (error) {
      throw this.#unreachable(error, 'the export broke off');
    } finally {
      await reader.cancel().catch(() => {});
    }
    if (rest !== '') yield rest;
  }

  async #json<T>(path: string, call: Call = {}): Promise<T> {
    const response = await this.#call(path, call);
    try {
      return (await response.json()) as T;
    } catch (error) {
      throw this.#unreachable(error, 'the answer broke off or is not JSON');
    }
  }

  async #call(path: string, call: Call): Promise<Response> {
    const { method = 'GET', query = {}, body, headers = {}, signal } = call;
    const parameters = new URLSearchParams();
    for (const [name, value] of Object.entries(query)) if (value !== undefined) parameters.set(name, String(value));
    const search = parameters.size === 0 ? '' : `?${parameters.toString()}`;
    const content = body === undefined ? {} : { body: JSON.stringify(body) };
    const type = body === undefined ? {} : { 'Content-Type': 'application/json' };
    let response: Response;
    try {
      response = await this.#fetch(`${this.url}${path}${search}`, {
        method,
        headers: { ...this.#headers, ...type, ...headers },
        ...content,
        ...(signal ? { signal } : {}),
      });
    } catch (error) {
      signal?.throwIfAborted();
      throw this.#unreachable(error, 'nobody answers');
    }
    if (response.ok) return response;
    throw await this.#problem(response);
  }

  #unreachable(error: unknown, what: string): HoldpointError {
    const cause = error instanceof Error && error.cause !== undefined ? error.cause : error;
    return new HoldpointError('server_unreachable', `${what} at ${this.url}: ${messageOf(cause)}`, {
      cause: error,
      details: { url: this.url },
      hint: 'start the stack with: holdpoint up, or set HOLDPOINT_URL',
    });
  }

  async #problem(response: Response): Promise<HoldpointError> {
    const problem: unknown = await response.json().catch(() => undefined);
    if (!isProblem(problem)) {
      return new HoldpointError('server_unreachable', `${this.url} answered ${response.status} in a form that is not Holdpoint's`, {
        details: { url: this.url, status: response.status },
      });
    }
    const { code, detail, hint, details } = problem;
    return new HoldpointError(code, detail, { ...(hint === undefined ? {} : { hint }), ...(details === undefined ? {} : { details }) });
  }
}

function isProblem(value: unknown): value is { code: ErrorCode; detail: string; hint?: string; details?: Record<string, unknown> } {
  return (
    typeof value === 'object' &&
    value !== null &&
    'code' in value &&
    typeof value.code === 'string' &&
    Object.hasOwn(ERROR_TABLE, value.code) &&
    'detail' in value &&
    typeof value.detail === 'string'
  );
}
