import type { CallRow, EngagedControl, NewRequest, RequestRow, RunLedger, RunRow, VoteRow } from '../activities/ports.ts';
import type { AuditFacts } from '../core/audit.ts';
import type { RunFile } from '../core/contracts.ts';
import { HoldpointError } from '../core/errors.ts';
import type { Stop } from '../core/run-contract.ts';
import { storableText } from '../core/text.ts';
import { appendAudit, type ChainHead } from './chain.ts';
import { type Client, type Pipelined, prepared } from './database.ts';

export interface StateRow {
  registered: boolean;
  agent: string;
  owner: string | null;
  requester: string | null;
  goal: string;
  ttl_seconds: number | null;
  stop: Stop | null;
  steps: number;
  tool_calls: number;
  active_ms: number;
  usd: number;
  plans: number;
}

const STATE_COLUMNS = 'registered, agent, owner, requester, goal, ttl_seconds, stop, steps, tool_calls, active_ms, usd, plans';
const CALL_COLUMNS = `call_id, step, position, tool, kind, tool_hash, args_hash, reason, status, pending_id, fence, result_status, result, result_sha256,
  result_bytes, stop, final`;
const REQUEST_COLUMNS = `pending_id, run_id, first_execution_id, call_id, tool, kind, idempotent, tool_tier, tool_hash, args_hash, preview, agent_reason, reason, rule, tier,
  policy_hash, agent, owner, requester, quorum, ttl_seconds, execute_within_seconds, status, created_at, expires_at, token_exp, resolved_at, usable_until,
  rejected`;

function storable(value: unknown): unknown {
  return typeof value === 'string' ? storableText(value) : value;
}

/** Name of the lock that claims share (in `engaged_control`) and `kill on` takes alone. */
export const CONTROLS_LOCK = `hashtext('holdpoint-controls')`;

export function runOf(row: StateRow): RunRow {
  const { registered, agent, owner, requester, goal, ttl_seconds, stop, plans } = row;
  const usage = { steps: row.steps, tool_calls: row.tool_calls, active_seconds: row.active_ms / 1000, usd: row.usd };
  return { registered, agent, owner, requester, goal, ttl_seconds, stop, usage, plans };
}

/** {@link RunLedger} inside an open transaction that holds the run's lock. */
export class PostgresRunLedger implements RunLedger {
  readonly run_id: string;
  readonly first_execution_id: string;
  readonly #client: Client;
  readonly #later: Pipelined['later'];
  readonly #head: ChainHead;
  #now: Date;
  #appended: Promise<void> = Promise.resolve();

  constructor({ client, later, head }: { client: Client; later: Pipelined['later']; head: ChainHead }, firstExecutionId: string) {
    this.#client = client;
    this.#later = later;
    this.#head = head;
    this.#now = head.at;
    this.run_id = head.run_id;
    this.first_execution_id = firstExecutionId;
  }

  /** Rows of a statement whose first two parameters are the run's key. */
  async #rows<T extends object>(sql: string, ...parameters: unknown[]): Promise<T[]> {
    return this.#query<T>(sql, [this.run_id, this.first_execution_id, ...parameters.map(storable)]);
  }

  async #query<T extends object>(sql: string, parameters: unknown[]): Promise<T[]> {
    return (await this.#client.query<T>(prepared(sql, parameters))).rows;
  }

  now(): Date {
    return this.#now;
  }

  /** Sends a write whose first two parameters are the run's key and does not wait for it: the connection keeps the order. */
  #write(sql: string, ...parameters: unknown[]): void {
    this.#later(this.#rows(sql, ...parameters));
  }

  async run(): Promise<RunRow | undefined> {
    const [row] = await this.#rows<StateRow>(`SELECT ${STATE_COLUMNS} FROM run_states WHERE run_id = $1 AND first_execution_id = $2`);
    return row && runOf(row);
  }

  async registration(): Promise<{ first_execution_id: string | null; agent: string; owner: string; requester: string; input: unknown } | undefined> {
    const sql = 'SELECT first_execution_id, agent, owner, requester, input FROM runs WHERE run_id = $1';
    return (await this.#query<{ first_execution_id: string | null; agent: string; owner: string; requester: string; input: unknown }>(sql, [this.run_id]))[0];
  }

  async insertRun(row: Omit<RunRow, 'stop' | 'usage' | 'plans'>, input: RunFile): Promise<void> {
    this.#write(
      `INSERT INTO run_states (run_id, first_execution_id, registered, agent, owner, requester, goal, ttl_seconds, input)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
       ON CONFLICT DO NOTHING`,
      row.registered,
      row.agent,
      row.owner,
      row.requester,
      row.goal,
      row.ttl_seconds,
      JSON.stringify(input),
    );
  }

  async runFile(): Promise<RunFile> {
    const [row] = await this.#rows<{ input: RunFile }>('SELECT input FROM run_states WHERE run_id = $1 AND first_execution_id = $2');
    if (!row) throw new HoldpointError('internal', `run ${this.run_id} has no row`);
    return row.input;
  }

  async stopRun(stop: Stop): Promise<void> {
    this.#write(
      `UPDATE run_states SET stop = $3, stopped_at = clock_timestamp() WHERE run_id = $1 AND first_execution_id = $2 AND stop IS NULL`,
      JSON.stringify(stop),
    );
  }

  async addUsage(delta: { steps?: number; tool_calls?: number; active_ms?: number; usd?: number }): Promise<void> {
    this.#write(
      `UPDATE run_states SET steps = steps + $3, tool_calls = greatest(0, tool_calls + $4), active_ms = active_ms + $5, usd = usd + $6
       WHERE run_id = $1 AND first_execution_id = $2`,
      delta.steps ?? 0,
      delta.tool_calls ?? 0,
      Math.round(delta.active_ms ?? 0),
      delta.usd ?? 0,
    );
  }

  async beginPlan(): Promise<number> {
    const sql = 'UPDATE run_states SET plans = plans + 1 WHERE run_id = $1 AND first_execution_id = $2 RETURNING plans';
    const [row] = await this.#rows<{ plans: number }>(sql);
    if (!row) throw new HoldpointError('internal', `run ${this.run_id} has no row`);
    return row.plans;
  }

  async step(step: number): Promise<boolean> {
    return (await this.#rows('SELECT 1 FROM run_steps WHERE run_id = $1 AND first_execution_id = $2 AND step = $3', step)).length > 0;
  }

  async insertStep(step: number): Promise<void> {
    this.#write('INSERT INTO run_steps (run_id, first_execution_id, step) VALUES ($1, $2, $3)', step);
  }

  async settleStep(step: number, used: { usd: number; active_ms: number }): Promise<void> {
    this.#write(
      'UPDATE run_steps SET usd = usd + $4, active_ms = active_ms + $5 WHERE run_id = $1 AND first_execution_id = $2 AND step = $3',
      step,
      used.usd,
      Math.round(used.active_ms),
    );
  }

  async call(callId: string): Promise<CallRow | undefined> {
    return (await this.#rows<CallRow>(`SELECT ${CALL_COLUMNS} FROM calls WHERE run_id = $1 AND first_execution_id = $2 AND call_id = $3`, callId))[0];
  }

  async insertCall(
    row: Pick<CallRow, 'call_id' | 'step' | 'position' | 'tool' | 'kind' | 'tool_hash' | 'args_hash' | 'reason' | 'status'>,
    toolCalls: 0 | 1,
  ): Promise<void> {
    this.#write(
      `WITH counted AS (UPDATE run_states SET tool_calls = tool_calls + $12 WHERE run_id = $1 AND first_execution_id = $2 AND $12 <> 0)
       INSERT INTO calls (run_id, first_execution_id, call_id, step, position, tool, kind, tool_hash, args_hash, reason, status)
       VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)`,
      row.call_id,
      row.step,
      row.position,
      row.tool,
      row.kind,
      row.tool_hash,
      row.args_hash,
      row.reason,
      row.status,
      toolCalls,
    );
  }

  async updateCall(callId: string, change: Partial<Omit<CallRow, 'call_id' | 'step' | 'position'>>, activeMs?: number): Promise<void> {
    const written = { ...change, ...(change.stop === undefined ? {} : { stop: JSON.stringify(change.stop) }) };
    const stamp = change.status === 'executing' ? ', claimed_at = clock_timestamp()' : change.status === 'done' ? ', finished_at = clock_timestamp()' : '';
    this.#update('calls', written, stamp, 'run_id = $1 AND first_execution_id = $2 AND call_id = $3', callId, activeMs);
  }

  /** Column names come from the code, never from outside. */
  #update(table: string, change: object, extra: string, where: string, id: string, activeMs?: number): void {
    const entries = Object.entries(change);
    const sets = entries.map(([column], index) => `${column} = $${index + 4}`).join(', ');
    const values = [id, ...entries.map(([, value]) => value)];
    const used = `used AS (UPDATE run_states SET active_ms = active_ms + $${values.length + 3} WHERE run_id = $1 AND first_execution_id = $2), `;
    this.#write(
      `WITH ${activeMs === undefined ? '' : used}changed AS (UPDATE ${table} SET ${sets}${extra} WHERE ${where} RETURNING 1)
       SELECT expect_one((SELECT count(*) FROM changed), '${table}')`,
      ...values,
      ...(activeMs === undefined ? [] : [Math.round(activeMs)]),
    );
  }

  async countRefused(argsHash: string): Promise<number> {
    const sql = `SELECT count(*)::int AS n FROM calls WHERE run_id = $1 AND first_execution_id = $2 AND args_hash = $3 AND status = 'refused'`;
    return (await this.#rows<{ n: number }>(sql, argsHash))[0]?.n ?? 0;
  }

  async siblingsClosedAt(step: number, position: number): Promise<Date | null> {
    const sql = `SELECT max(greatest(r.resolved_at, c.finished_at)) AS at FROM calls c JOIN approval_requests r USING (pending_id)
      WHERE c.run_id = $1 AND c.first_execution_id = $2 AND c.step = $3 AND c.position < $4`;
    return (await this.#rows<{ at: Date | null }>(sql, step, position))[0]?.at ?? null;
  }

  async arguments(argsHash: string): Promise<string | undefined> {
    return (await this.#query<{ canonical: string }>('SELECT canonical FROM arguments WHERE args_hash = $1', [argsHash]))[0]?.canonical;
  }

  async insertArguments(argsHash: string, tool: string, canonical: string): Promise<void> {
    this.#later(this.#query('INSERT INTO arguments (args_hash, tool, canonical) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING', [argsHash, tool, canonical]));
  }

  /** Only requests of this run: a foreign `pending_id` is not there. */
  async request(pendingId: string): Promise<RequestRow | undefined> {
    const sql = `SELECT ${REQUEST_COLUMNS} FROM approval_requests WHERE run_id = $1 AND first_execution_id = $2 AND pending_id = $3 FOR UPDATE`;
    // FOR UPDATE needs no more than the columns the worker may update, and orders us with the decision service.
    return (await this.#rows<RequestRow>(sql, pendingId))[0];
  }

  async insertRequest(row: NewRequest): Promise<void> {
    const entries = Object.entries(row);
    const place = (column: keyof NewRequest): string => `$${entries.findIndex(([name]) => name === column) + 3}`;
    const columns = entries.map(([column]) => column).join(', ');
    const values = entries.map((_, index) => `$${index + 3}`).join(', ');
    this.#write(
      `WITH waiting AS (
         UPDATE calls SET status = 'waiting', pending_id = ${place('pending_id')}, tool_hash = ${place('tool_hash')}, args_hash = ${place('args_hash')}
         WHERE run_id = $1 AND first_execution_id = $2 AND call_id = ${place('call_id')} RETURNING 1),
       made AS (INSERT INTO approval_requests (run_id, first_execution_id, ${columns}) VALUES ($1, $2, ${values}))
       SELECT expect_one((SELECT count(*) FROM waiting), 'calls')`,
      ...entries.map(([, value]) => value),
    );
  }

  async updateRequest(pendingId: string, change: Partial<Pick<RequestRow, 'status' | 'quorum' | 'resolved_at' | 'usable_until' | 'rejected'>>): Promise<void> {
    this.#update('approval_requests', change, '', 'run_id = $1 AND first_execution_id = $2 AND pending_id = $3', pendingId);
  }

  openRequests(): Promise<RequestRow[]> {
    const sql = `SELECT ${REQUEST_COLUMNS} FROM approval_requests WHERE run_id = $1 AND first_execution_id = $2 AND status IN ('open', 'approved')
      AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.pending_id = approval_requests.pending_id AND c.status IN ('executing', 'done', 'stopped'))
      ORDER BY created_at, pending_id`;
    return this.#rows<RequestRow>(sql);
  }

  async votes(pendingId: string): Promise<VoteRow[]> {
    const sql = `SELECT d.decision_id, d.pending_id, d.run_id, d.approver, d.outcome, d.reason, d.token, d.decided_at, a.roles, u.idempotency_key AS used_by
      FROM decisions d LEFT JOIN approvers a ON a.principal = d.approver AND a.active LEFT JOIN consumptions u USING (decision_id)
      WHERE d.pending_id = $1 AND d.run_id = $2 ORDER BY d.decided_at, d.decision_id`;
    return this.#query<VoteRow>(sql, [pendingId, this.run_id]);
  }

  async consume(decisionId: string, idempotencyKey: string): Promise<void> {
    this.#later(this.#query('INSERT INTO consumptions (decision_id, idempotency_key) VALUES ($1, $2)', [decisionId, idempotencyKey]));
  }

  async engagedControl(agent: string, tool?: string): Promise<EngagedControl | undefined> {
    const scopes = ['global', `agent:${agent}`, ...(tool === undefined ? [] : [`tool:${tool}`])];
    const sql = 'SELECT scope, reason, at FROM engaged_control($1)';
    const [row] = await this.#query<{ scope: string | null; reason: string | null; at: Date }>(sql, [scopes]);
    if (!row) throw new HoldpointError('internal', 'the kill switch cannot be read');
    // Whoever throws the switch may have been waited for.
    this.#now = row.at;
    return row.scope === null ? undefined : { scope: row.scope, reason: row.reason };
  }

  async append(facts: AuditFacts): Promise<void> {
    // An event stands on the one before it, and whether that was added is known only when it was.
    await this.#appended;
    this.#appended = appendAudit(this.#client, this.#head, facts, this.#now);
    this.#later(this.#appended);
  }
}
