import { afterAll, beforeAll, expect, test } from 'vitest';
import { makeRequest, startTestService, type MadeRequest, type TestService } from './harness.ts';

let t: TestService;
let made: MadeRequest;
beforeAll(async () => {
  t = await startTestService({ approvers: 1 });
  made = await makeRequest(t);
  await t.approvers[0]!.client.decide(made.pending_id, { outcome: 'approved' });
});
afterAll(() => t.close());

const DENIED = /permission denied/;

test.each([
  `INSERT INTO decisions SELECT 'dec_x', pending_id, run_id, 'x', 'approved', null, 'x', now(), null, 0 FROM approval_requests`,
  `UPDATE decisions SET outcome = 'approved'`,
  'DELETE FROM decisions',
  `INSERT INTO runs (run_id, start_request_id, agent, owner, requester, input) VALUES ('x', gen_random_uuid(), 'a', 'b', 'c', '{}')`,
  `UPDATE runs SET owner = 'x'`,
  `INSERT INTO controls (scope, engaged, changed_by) VALUES ('global', false, 'x')`,
  'UPDATE controls SET engaged = false',
  `INSERT INTO approvers (principal, roles) VALUES ('x', '{approver}')`,
  `UPDATE approvers SET roles = '{approver}'`,
  `INSERT INTO api_keys (key_sha256, principal) VALUES ('x', 'olga')`,
  'SELECT * FROM api_keys',
  `INSERT INTO signing_keys (kid, issuer, jwk) VALUES ('x', 'x', '{}')`,
  `INSERT INTO checkpoints (n, at, jws) VALUES (1000, now(), 'x')`,
  `UPDATE audit_events SET reason = 'x'`,
  'DELETE FROM audit_events',
  `UPDATE approval_requests SET args_hash = 'x'`,
  `UPDATE approval_requests SET expires_at = now() + interval '1 year'`,
  `UPDATE arguments SET canonical = '{}'`,
  'DELETE FROM consumptions',
  'UPDATE run_heads SET sealed_seq = 1000',
  'TRUNCATE audit_events',
])("the worker's role cannot: %s", async (sql) => {
  await expect(t.worker.query(sql)).rejects.toThrow(DENIED);
});

test("the worker's role changes nothing of a request that people are shown, and nothing at all in tables that are not its own", async () => {
  const { rows } = await t.admin.query<{ place: string }>(
    `SELECT table_name || '.' || column_name AS place FROM information_schema.column_privileges
     WHERE grantee = 'holdpoint_worker' AND privilege_type = 'UPDATE'
       AND table_name IN ('approval_requests', 'arguments', 'runs', 'run_heads', 'decisions', 'approvers', 'api_keys', 'controls', 'checkpoints', 'signing_keys', 'audit_events', 'consumptions')
     ORDER BY 1`,
  );
  expect(rows.map((row) => row.place)).toEqual([
    'approval_requests.quorum',
    'approval_requests.rejected',
    'approval_requests.resolved_at',
    'approval_requests.status',
    'approval_requests.usable_until',
    'run_heads.hash',
    'run_heads.seq',
  ]);
});

test.each([
  `UPDATE audit_events SET reason = 'x'`,
  'DELETE FROM audit_events',
  'DELETE FROM decisions',
  `UPDATE decisions SET outcome = 'denied'`,
  `UPDATE checkpoints SET jws = 'x'`,
  `UPDATE arguments SET canonical = '{}'`,
  `INSERT INTO consumptions (decision_id, idempotency_key) SELECT decision_id, 'x' FROM decisions`,
  `UPDATE calls SET status = 'done'`,
  `UPDATE approval_requests SET expires_at = now() + interval '1 year'`,
  `INSERT INTO approval_requests SELECT * FROM approval_requests`,
  `UPDATE runs SET owner = 'x'`,
])("the service's role cannot: %s", async (sql) => {
  await expect(t.serve.query(sql)).rejects.toThrow(DENIED);
});

test.each([
  'UPDATE audit_events SET reason = $$x$$',
  'DELETE FROM audit_events',
  'TRUNCATE audit_events',
  'UPDATE checkpoints SET jws = $$x$$',
  'DELETE FROM decisions',
])('even the owner of the tables is stopped by a trigger at: %s', async (sql) => {
  await t.admin.query(`INSERT INTO checkpoints (n, at, jws) VALUES (100000, now(), 'x') ON CONFLICT DO NOTHING`);
  await expect(t.admin.query(sql)).rejects.toThrow(/append-only/);
});
