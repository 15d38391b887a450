/** The kill switch. When `kill on` returns, no claim that it forbids will commit any more. */
import { appendAudit, ledgerNow, lockHead } from '../adapters/chain.ts';
import { transaction } from '../adapters/database.ts';
import { CONTROLS_LOCK } from '../adapters/run-ledger.ts';
import type { ControlView } from '../client/types.ts';
import { auditFacts } from '../core/audit.ts';
import type { ControlRequest } from '../core/contracts.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { SYSTEM_RUN } from '../core/words.ts';
import type { ServerContext } from './ports.ts';

interface ControlRow extends Omit<ControlView, 'changed_at'> {
  changed_at: Date;
}

const viewOf = (row: ControlRow): ControlView => ({
  scope: row.scope,
  engaged: row.engaged,
  reason: row.reason,
  changed_by: row.changed_by,
  changed_at: row.changed_at.toISOString(),
});

export async function listControls(context: ServerContext): Promise<{ armed: boolean; controls: ControlView[] }> {
  const { rows } = await context.pool.query<ControlRow>('SELECT scope, engaged, reason, changed_by, changed_at FROM controls ORDER BY scope');
  return { armed: isArmed(context), controls: rows.map(viewOf) };
}

const isArmed = (context: ServerContext): boolean => context.policy.current().policy.controls.kill_switch.enabled;

/** @throws HoldpointError `kill_switch_disarmed` when the policy file disarms it and it shall be engaged */
export async function setControl(context: ServerContext, principal: string, request: ControlRequest): Promise<ControlView> {
  if (request.engaged && !isArmed(context)) {
    throw new HoldpointError('kill_switch_disarmed', 'controls.kill_switch.enabled is false in holdpoint.yaml: engaging it would stop nothing', {
      hint: 'set controls.kill_switch.enabled: true and restart worker and serve',
    });
  }
  const scope = request.agent !== undefined ? `agent:${request.agent}` : request.tool !== undefined ? `tool:${request.tool}` : 'global';
  return transaction(context.pool, async (client) => {
    // The head before the lock that claims share: who holds that one must wait for nobody.
    const head = await lockHead(client, SYSTEM_RUN);
    await client.query(`SELECT pg_advisory_xact_lock(${CONTROLS_LOCK})`);
    const now = await ledgerNow(client);
    const { rows } = await client.query<ControlRow>(
      `INSERT INTO controls (scope, engaged, reason, changed_by, changed_at) VALUES ($1, $2, $3, $4, $5)
       ON CONFLICT (scope) DO UPDATE SET engaged = $2, reason = $3, changed_by = $4, changed_at = $5
       RETURNING scope, engaged, reason, changed_by, changed_at`,
      [scope, request.engaged, request.reason ?? null, principal, now],
    );
    const outcome = request.engaged ? 'kill_switch_engaged' : 'kill_switch_released';
    const facts = auditFacts({
      event_key: `${outcome}/${scope}/${head.seq + 1}`,
      outcome,
      agent: request.agent ?? null,
      tool: request.tool ?? null,
      owner: principal,
      reason: request.reason ?? null,
      detail: `${principal} ${request.engaged ? 'engaged' : 'released'} the kill switch for ${scope}`,
    });
    await appendAudit(client, head, facts, now);
    const [row] = rows;
    if (!row) throw new HoldpointError('internal', `the control ${scope} was not written`);
    return viewOf(row);
  });
}

const NOTIFY_LIMIT = 10_000;
const NOTIFY_AT_ONCE = 8;

/** Makes the waiting runs in scope ask the gateway again. Best effort: a run that misses it is stopped at its next call. */
export async function notifyWaiting(context: ServerContext, scope: string): Promise<void> {
  const { rows } = await context.pool.query<{ run_id: string }>(
    `SELECT DISTINCT run_id FROM approval_requests WHERE status IN ('open', 'approved') AND ($1 = 'global' OR 'agent:' || agent = $1 OR 'tool:' || tool = $1)
     AND EXISTS (SELECT 1 FROM run_states s WHERE s.run_id = approval_requests.run_id AND s.first_execution_id = approval_requests.first_execution_id AND s.stop IS NULL)
     LIMIT $2`,
    [scope, NOTIFY_LIMIT],
  );
  const queue = rows.map((row) => row.run_id);
  const work = async (): Promise<void> => {
    for (let runId = queue.pop(); runId !== undefined; runId = queue.pop()) {
      try {
        await context.runs.notifyControls(runId);
      } catch (error) {
        context.log.warn({ run_id: runId, error: messageOf(error) }, 'a waiting run could not be told of the kill switch');
      }
    }
  };
  await Promise.all(Array.from({ length: NOTIFY_AT_ONCE }, work));
}
