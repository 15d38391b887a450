/** Names on the wire, spelled out: clients, readers of the audit trail and Temporal Web know them. */
import { expect, test } from 'vitest';
import { AUDIT_OUTCOMES, SEARCH_ATTRIBUTES, STOP_REASONS, SYSTEM_RUN, UNVERIFIED_AGENT } from '../../core/words.ts';
import { TOKEN_AUDIENCE, TOKEN_ISSUER, TOKEN_TYP } from '../../core/contracts.ts';
import * as messages from '../../workflows/messages.ts';
import { readSource } from './sources.ts';

test('the workflow type is agentRun, and there is no other', () => {
  expect([...readSource('workflows/index.ts').text.matchAll(/^export .*$/gm)].map(([line]) => line)).toEqual(["export { agentRun } from './agent-run.ts';"]);
});

test('the signals and the query', () => {
  expect(
    Object.values(messages)
      .map(({ type, name }) => `${type} ${name}`)
      .sort(),
  ).toEqual(['query state', 'signal approval_denied', 'signal approval_granted', 'signal controls_changed']);
});

test('the stop reasons', () => {
  expect([...STOP_REASONS].sort()).toEqual([
    'approval_denied',
    'approval_expired_unused',
    'approval_timeout',
    'budget_exceeded',
    'cancelled',
    'completed',
    'kill_switch',
    'outcome_unknown',
    'planner_failed',
    'policy_denied',
    'tool_failed',
  ]);
});

test('the outcomes of the audit trail', () => {
  expect([...AUDIT_OUTCOMES].sort()).toEqual([
    'allow',
    'approval_cancelled',
    'approval_denied',
    'approval_granted',
    'approval_required',
    'approval_timeout',
    'decision_rejected',
    'deny',
    'execution_started',
    'key_changed',
    'kill_switch_engaged',
    'kill_switch_released',
    'outcome_resolved',
    'request_superseded',
    'run_started',
    'run_stopped',
    'vote_recorded',
  ]);
});

test('the marks of an approval token', () => {
  expect({ iss: TOKEN_ISSUER, aud: TOKEN_AUDIENCE, typ: TOKEN_TYP }).toEqual({ iss: 'holdpoint', aud: 'holdpoint-gateway', typ: 'approval+jwt' });
});

test('the search attributes, the run of no run and the agent nobody vouches for', () => {
  expect(SEARCH_ATTRIBUTES).toEqual({ status: 'HoldpointStatus', agent: 'HoldpointAgent', stopReason: 'HoldpointStopReason' });
  expect([SYSTEM_RUN, UNVERIFIED_AGENT]).toEqual(['system', 'unverified']);
});
