import type { CallRow, DecisionRow, RequestRow, RunLedger, RunRow } from '../activities/ports.ts';
import type { AuditFacts } from '../core/audit.ts';
import type { RunFile } from '../core/contracts.ts';
import { HoldpointError } from '../core/errors.ts';
import type { Stop } from '../core/run-contract.ts';
import { storableText } from '../core/text.ts';
import { appendAudit, type ChainHead, ledgerNow } from './chain.ts';
import type { Client } from './database.ts';

interface StateRow {
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
}

const STATE_COLUMNS = 'registered, agent, owner, requester, goal, ttl_seconds, stop, steps, tool_calls, active_ms, usd';

function storable(value: unknown): unknown {
  return typeof value === 'string' ? storableText(value) : value;
}

/** Name of the lock that claims share and `kill on` takes alone. */
export const CONTROLS_LOCK = `hashtext('holdpoint-controls')`;

/** {@link RunLedger} inside an open transaction that holds the run's lock. */
export class PostgresRunLedger implements RunLedger {
  readonly run_id: string;
  readonly first_execution_id: string;
  readonly #client: Client;
  readonly #head: ChainHead;

  constructor(client: Client, head: ChainHead, firstExecutionId: string) {
    this.#client = client;
    this.#head = head;
    this.run_id = head.run_id;
    this.first_execution_id = firstExecutionId;
  }

  /** Rows of a statement whose first two parameters are the run's key. */
  async #rows<T extends object>(sql: string, ...parameters: unknown[]): Promise<T[]> {
    return (await this.#client.query<T>(sql, [this.run_id, this.first_execution_id, ...parameters.map(storable)])).rows;
  }

  now(): Promise<Date> {
    return ledgerNow(this.#client);
  }

  async run(): Promise<RunRow | undefined> {
    const [row] = await this.#rows<StateRow>(`SELECT ${STATE_COLUMNS} FROM run_states WHERE run_id = $1 AND first_execution_id = $2`);
    if (!row) return undefined;
    const { registered, agent, owner, requester, goal, ttl_seconds, stop } = row;
    const usage = { steps: row.steps, tool_calls: row.tool_calls, active_seconds: row.active_ms / 1000, usd: row.usd };
    return { registered, agent, owner, requester, goal, ttl_seconds, stop, usage };
  }

  async registration(): Promise<{ first_execution_id: string | null; agent: string; owner: string; requester: string; input: unknown } | undefined> {
    const sql = 'SELECT first_execution_id, agent, owner, requester, input FROM runs WHERE run_id = $1';
    const { rows } = await this.#client.query<{ first_execution_id: string | null; agent: string; owner: string; requester: string; input: unknown }>(sql, [
      this.run_id,
    ]);
    return rows[0];
  }

  async insertRun(row: Omit<RunRow, 'stop' | 'usage'>, input: RunFile): Promise<void> {
    await this.#rows(
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
    await this.#rows(
      `UPDATE run_states SET stop = $3, stopped_at = clock_timestamp() WHERE run_id = $1 AND first_execution_id = $2 AND stop IS NULL`,
      JSON.stringify(stop),
    );
  }

  async addUsage(delta: { steps?: number; tool_calls?: number; active_ms?: number; usd?: number }): Promise<void> {
    await this.#rows(
      `UPDATE run_states SET steps = steps + $3, tool_calls = greatest(0, tool_calls + $4), active_ms = active_ms + $5, usd = usd + $6
       WHERE run_id = $1 AND first_execution_id = $2`,
      delta.steps ?? 0,
      delta.tool_calls ?? 0,
      Math.round(delta.active_ms ?? 0),
      delta.usd ?? 0,
    );
  }

  async step(step: number): Promise<boolean> {
    return (await this.#rows('SELECT 1 FROM run_steps WHERE run_id = $1 AND first_execution_id = $2 AND step = $3', step)).length > 0;
  }

  async insertStep(step: number): Promise<void> {
    await this.#rows('INSERT INTO run_steps (run_id, first_execution_id, step) VALUES ($1, $2, $3)', step);
  }

  async settleStep(step: number, used: { usd: number; active_ms: number }): Promise<void> {
    await this.#rows(
      'UPDATE run_steps SET usd = usd + $4, active_ms = active_ms + $5 WHERE run_id = $1 AND first_execution_id = $2 AND step = $3',
      step,
      used.usd,
      Math.round(used.active_ms),
    );
  }

  async call(callId: string): Promise<CallRow | undefined> {
    return (await this.#rows<CallRow>('SELECT * FROM calls WHERE run_id = $1 AND first_execution_id = $2 AND call_id = $3', callId))[0];
  }

  async insertCall(row: Pick<CallRow, 'call_id' | 'step' | 'position' | 'tool' | 'kind' | 'tool_hash' | 'args_hash' | 'reason' | 'status'>): Promise<void> {
    await this.#rows(
      `INSERT INTO calls (run_id, first_execution_id, call_id, step, position, tool, kind, tool_hash, args_hash, reason, status)
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
    );
  }

  async updateCall(callId: string, change: Partial<Omit<CallRow, 'call_id' | 'step' | 'position'>> & { active_ms?: number }): Promise<void> {
    const written = { ...change, ...(change.stop === undefined ? {} : { stop: JSON.stringify(change.stop) }) };
    const stamp = change.status === 'executing' ? ', claimed_at = clock_timestamp()' : change.status === 'done' ? ', finished_at = clock_timestamp()' : '';
    await this.#update('calls', written, stamp, 'run_id = $1 AND first_execution_id = $2 AND call_id = $3', callId);
  }

  /** Column names come from the code, never from outside. */
  async #update(table: string, change: object, extra: string, where: string, id: string): Promise<void> {
    const entries = Object.entries(change);
    const sets = entries.map(([column], index) => `${column} = $${index + 4}`).join(', ');
    const result = await this.#client.query(`UPDATE ${table} SET ${sets}${extra} WHERE ${where}`, [
      this.run_id,
      this.first_execution_id,
      id,
      ...entries.map(([, value]) => storable(value)),
    ]);
    if (result.rowCount !== 1) throw new HoldpointError('internal', `${table} has no row ${id} of run ${this.run_id}`);
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
    const { rows } = await this.#client.query<{ canonical: string }>('SELECT canonical FROM arguments WHERE args_hash = $1', [argsHash]);
    return rows[0]?.canonical;
  }

  async insertArguments(argsHash: string, tool: string, canonical: string): Promise<void> {
    await this.#client.query('INSERT INTO arguments (args_hash, tool, canonical) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING', [argsHash, tool, canonical]);
  }

  /** Only requests of this run: a foreign `pending_id` is not there. */
  async request(pendingId: string): Promise<RequestRow | undefined> {
    const sql = 'SELECT * FROM approval_requests WHERE run_id = $1 AND first_execution_id = $2 AND pending_id = $3 FOR UPDATE';
    // FOR UPDATE needs no more than the columns the worker may update, and orders us with the decision service.
    return (await this.#rows<RequestRow>(sql, pendingId))[0];
  }

  async insertRequest(row: Omit<RequestRow, 'run_id' | 'first_execution_id' | 'status' | 'resolved_at' | 'usable_until' | 'rejected'>): Promise<void> {
    const entries = Object.entries(row);
    const columns = entries.map(([column]) => column).join(', ');
    const values = entries.map((_, index) => `$${index + 3}`).join(', ');
    await this.#rows(`INSERT INTO approval_requests (run_id, first_execution_id, ${columns}) VALUES ($1, $2, ${values})`, ...entries.map(([, value]) => value));
  }

  async updateRequest(pendingId: string, change: Partial<Pick<RequestRow, 'status' | 'quorum' | 'resolved_at' | 'usable_until' | 'rejected'>>): Promise<void> {
    await this.#update('approval_requests', change, '', 'run_id = $1 AND first_execution_id = $2 AND pending_id = $3', pendingId);
  }

  openRequests(): Promise<RequestRow[]> {
    const sql = `SELECT * FROM approval_requests WHERE run_id = $1 AND first_execution_id = $2 AND status IN ('open', 'approved')
      AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.pending_id = approval_requests.pending_id AND c.status IN ('executing', 'done', 'stopped'))
      ORDER BY created_at, pending_id`;
    return this.#rows<RequestRow>(sql);
  }

  async decisions(pendingId: string): Promise<DecisionRow[]> {
    const sql = 'SELECT * FROM decisions WHERE pending_id = $1 AND run_id = $2 ORDER BY decided_at, decision_id';
    return (await this.#client.query<DecisionRow>(sql, [pendingId, this.run_id])).rows;
  }

  async consume(decisionId: string, idempotencyKey: string): Promise<boolean> {
    await this.#client.query('INSERT INTO consumptions (decision_id, idempotency_key) VALUES ($1, $2) ON CONFLICT DO NOTHING', [decisionId, idempotencyKey]);
    const { rows } = await this.#client.query<{ idempotency_key: string }>('SELECT idempotency_key FROM consumptions WHERE decision_id = $1', [decisionId]);
    return rows[0]?.idempotency_key === idempotencyKey;
  }

  async engagedControls(agent: string, tool?: string): Promise<{ scope: string; reason: string | null }[]> {
    await this.#client.query(`SELECT pg_advisory_xact_lock_shared(${CONTROLS_LOCK})`);
    // A statement of its own: its snapshot is taken after the lock, so it sees every switch that was thrown before.
    const scopes = ['global', `agent:${agent}`, ...(tool === undefined ? [] : [`tool:${tool}`])];
    const sql = 'SELECT scope, reason FROM controls WHERE engaged AND scope = ANY($1) ORDER BY scope';
    return (await this.#client.query<{ scope: string; reason: string | null }>(sql, [scopes])).rows;
  }

  async approver(principal: string): Promise<string[] | undefined> {
    const { rows } = await this.#client.query<{ roles: string[] }>('SELECT roles FROM approvers WHERE principal = $1 AND active', [principal]);
    return rows[0]?.roles;
  }

  async append(facts: AuditFacts): Promise<void> {
    await appendAudit(this.#client, this.#head, facts, await this.now());
  }
}
