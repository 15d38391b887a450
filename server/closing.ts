/** Ends in the ledger what has ended without telling it. */
import { appendAudit, ledgerNow, lockHead } from '../adapters/chain.ts';
import { type Client, type Pool, transaction } from '../adapters/database.ts';
import type { RequestRow } from '../activities/ports.ts';
import { auditFacts, type AuditFacts } from '../core/audit.ts';
import type { Stop } from '../core/run-contract.ts';

/** First execution id of a run whose workflow Temporal refused to start: no real execution has it. */
export const NEVER_STARTED = 'never-started';

export interface GoneRun {
  run_id: string;
  first_execution_id: string;
}

/**
 * Records that a run is gone, unless it recorded its own end before: what it asked is closed, the run is stopped.
 *
 * @param reason one sentence for people
 * @returns false when the run had ended by itself
 */
export async function recordGone(pool: Pool, run: GoneRun, reason: string): Promise<boolean> {
  return transaction(pool, async (client) => {
    const head = await lockHead(client, run.run_id);
    const now = await ledgerNow(client);
    const state = await stopState(client, run, { stop_reason: 'cancelled', reason }, now);
    if (!state) return false;
    for (const request of await unusedRequests(client, run)) {
      await client.query(`UPDATE approval_requests SET status = 'cancelled', resolved_at = $2 WHERE pending_id = $1`, [request.pending_id, now]);
      await appendAudit(client, head, requestGone(request, reason), now);
    }
    const facts = auditFacts({
      event_key: `${run.first_execution_id}/run_stopped`,
      outcome: 'run_stopped',
      ...state,
      reason: 'cancelled',
      detail: reason,
      result: 'cancelled',
    });
    await appendAudit(client, head, facts, now);
    await client.query(`SELECT pg_notify('holdpoint_run', $1)`, [run.run_id]);
    return true;
  });
}

type Who = Pick<AuditFacts, 'agent' | 'owner' | 'requester'>;

/** Stops the run's row, or makes a stopped one for a registered run that never reported. Undefined: it had ended already. */
async function stopState(client: Client, run: GoneRun, stop: Stop, now: Date): Promise<Who | undefined> {
  const key = [run.run_id, run.first_execution_id, JSON.stringify(stop), now];
  const stopped = await client.query<Who>(
    `UPDATE run_states SET stop = $3, stopped_at = $4 WHERE run_id = $1 AND first_execution_id = $2 AND stop IS NULL RETURNING agent, owner, requester`,
    key,
  );
  if (stopped.rows[0]) return stopped.rows[0];
  const made = await client.query<Who>(
    `INSERT INTO run_states (run_id, first_execution_id, registered, agent, owner, requester, input, stop, stopped_at)
     SELECT run_id, first_execution_id, true, agent, owner, requester, input, $3::json, $4 FROM runs WHERE run_id = $1 AND first_execution_id = $2
     ON CONFLICT DO NOTHING RETURNING agent, owner, requester`,
    key,
  );
  return made.rows[0];
}

/** Open ones, and approved ones whose call has not begun: a call that executes records its own outcome. */
async function unusedRequests(client: Client, run: GoneRun): Promise<RequestRow[]> {
  const { rows } = await client.query<RequestRow>(
    `SELECT a.* FROM approval_requests a WHERE a.run_id = $1 AND a.first_execution_id = $2 AND a.status IN ('open', 'approved')
     AND NOT EXISTS (SELECT 1 FROM calls c WHERE c.pending_id = a.pending_id AND c.status IN ('executing', 'done', 'stopped'))
     ORDER BY a.created_at, a.pending_id FOR UPDATE OF a`,
    [run.run_id, run.first_execution_id],
  );
  return rows;
}

function requestGone(request: RequestRow, reason: string): AuditFacts {
  const { agent, owner, requester, tool, tool_hash, call_id, pending_id, rule, tier, policy_hash, args_hash } = request;
  return auditFacts({
    event_key: `${request.first_execution_id}/${call_id}/approval_cancelled/${pending_id}`,
    outcome: 'approval_cancelled',
    agent,
    owner,
    requester,
    tool,
    tool_hash,
    call_id,
    pending_id,
    rule,
    tier,
    policy_hash,
    args_hash,
    reason: 'run_gone',
    detail: reason,
  });
}

/** A registered run that Temporal will never start. */
export async function recordNeverStarted(pool: Pool, runId: string, reason: string): Promise<void> {
  const { rowCount } = await pool.query('UPDATE runs SET first_execution_id = $2 WHERE run_id = $1 AND first_execution_id IS NULL', [runId, NEVER_STARTED]);
  if (rowCount === 1) await recordGone(pool, { run_id: runId, first_execution_id: NEVER_STARTED }, reason);
}
