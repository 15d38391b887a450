import { appendFile, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { verifyExport } from '../../adapters/audit-verify.ts';
import { CheckpointFile, openCheckpoint } from '../../adapters/checkpoint.ts';
import { hashJson } from '../../adapters/hashing.ts';
import type { AuditReport } from '../../client/types.ts';
import type { AuditEvent } from '../../core/audit.ts';
import { SEAL_LOCK, sealAll } from '../../server/sealer.ts';
import { appendEvents, makeRequest, startTestService, type MadeRequest, type TestService } from './harness.ts';

let t: TestService;
let run: MadeRequest;
let file: CheckpointFile;
let runId: string;

/** One run with a grant (records 1 and 2) and four more records, a second run of three, all sealed twice. */
beforeEach(async () => {
  t = await startTestService({ approvers: 1 });
  file = new CheckpointFile(t.config.checkpointsDir);
  run = await makeRequest(t);
  runId = run.run_id;
  await t.approvers[0]!.client.decide(run.pending_id, { outcome: 'approved' });
  await sealAll(t.service.context, file);
  await appendEvents(t, runId, 4);
  await appendEvents(t, 'run_other', 3);
  await sealAll(t.service.context, file);
});
afterEach(() => t.close());

const verify = (): Promise<AuditReport> => t.auditor.client.verifyAudit();
const findings = async (): Promise<string[]> => (await verify()).findings.map((finding) => `${finding.kind} ${finding.where}`);

/** As the superuser: no trigger stands in the way. */
async function tamper(...statements: string[]): Promise<void> {
  const client = await t.admin.connect();
  try {
    await client.query(`SET session_replication_role = replica`);
    for (const sql of statements) await client.query(sql);
    await client.query(`SET session_replication_role = DEFAULT`);
  } finally {
    client.release();
  }
}

async function withSealLock(work: () => Promise<void>): Promise<void> {
  const client = await t.admin.connect();
  try {
    await client.query(`SELECT pg_advisory_lock(${SEAL_LOCK})`);
    await work();
    await client.query(`SELECT pg_advisory_unlock(${SEAL_LOCK})`);
  } finally {
    client.release();
  }
}

const COVER_TRACKS = ['DELETE FROM run_heads', 'DELETE FROM checkpoints'];

test('an untouched trail verifies, with its grants and the time up to which it is sealed', async () => {
  const report = await verify();
  expect(report).toMatchObject({ ok: true, findings: [], events: 10, runs: 3, grants: 1 });
  expect(report.checkpoints).toBeGreaterThanOrEqual(2);
  expect(Math.abs(Date.now() - Date.parse(report.sealed_until ?? ''))).toBeLessThan(30_000);
});

test('a changed record is named', async () => {
  await tamper(`UPDATE audit_events SET reason = 'nothing to see' WHERE run_id = '${runId}' AND seq = 4`, ...COVER_TRACKS);
  expect(await findings()).toContain(`changed ${runId}#4 (allow)`);
});

/** Writes a chain anew from one record on, as somebody would who knows how hashes are made. */
async function rewrite(from: number, change: (event: AuditEvent) => AuditEvent): Promise<void> {
  const { events } = await t.auditor.client.audit({ run: runId, limit: 1000 });
  let prev = events[from - 2]?.hash ?? '';
  const statements: string[] = [];
  for (const old of events.slice(from - 1)) {
    const { hash: _hash, ...event } = { ...(old.seq === from ? change(old) : old), prev_hash: prev };
    prev = hashJson(event);
    statements.push(
      `UPDATE audit_events SET reason = ${event.reason === null ? 'NULL' : `'${event.reason}'`}, prev_hash = '${event.prev_hash}', hash = '${prev}' WHERE run_id = '${runId}' AND seq = ${event.seq}`,
    );
  }
  await tamper(...statements, `UPDATE run_heads SET hash = '${prev}' WHERE run_id = '${runId}'`);
}

test('a chain that was written anew from a changed record on is found by the checkpoint', async () => {
  await rewrite(3, (event) => ({ ...event, reason: 'harmless' }));
  const report = await verify();
  expect(report.findings).toEqual([expect.objectContaining({ kind: 'changed', run_id: runId, seq: 6 })]);
  expect(report.findings[0]?.message).toContain('sealed another record');
});

test('one record rewritten with its hash, and nothing after it, is named', async () => {
  const { events } = await t.auditor.client.audit({ run: runId });
  const { hash: _hash, ...event } = { ...events[3]!, reason: 'harmless' };
  await tamper(`UPDATE audit_events SET reason = 'harmless', hash = '${hashJson(event)}' WHERE run_id = '${runId}' AND seq = 4`);
  expect(await findings()).toEqual([`changed ${runId}#4 (allow)`]);
});

test('a removed record is named', async () => {
  await tamper(`DELETE FROM audit_events WHERE run_id = '${runId}' AND seq = 3`, ...COVER_TRACKS);
  expect(await findings()).toContain(`removed ${runId}#3`);
});

test('two swapped records are named as swapped', async () => {
  await tamper(
    `UPDATE audit_events SET seq = 100 WHERE run_id = '${runId}' AND seq = 4`,
    `UPDATE audit_events SET seq = 4 WHERE run_id = '${runId}' AND seq = 5`,
    `UPDATE audit_events SET seq = 5 WHERE run_id = '${runId}' AND seq = 100`,
    ...COVER_TRACKS,
  );
  const found = await findings();
  expect(found).toContain(`reordered ${runId}#4 (allow)`);
  expect(found).toContain(`reordered ${runId}#5 (allow)`);
});

test('a tail that was cut off is named, with heads and checkpoints deleted in the database', async () => {
  await tamper(`DELETE FROM audit_events WHERE run_id = '${runId}' AND seq >= 5`, ...COVER_TRACKS);
  const report = await verify();
  const cut = report.findings.find((finding) => finding.kind === 'cut_off');
  expect(cut).toMatchObject({ run_id: runId, seq: 5 });
  expect(cut?.message).toMatch(new RegExp(`^run ${runId}: events 5\\.\\. are missing, checkpoint \\d+ says seq 6$`));
  expect(report.findings.some((finding) => finding.kind === 'missing_checkpoint')).toBe(true);
});

test('a cut before the next seal is seen by the heads', async () => {
  await t.service.stop();
  await appendEvents(t, runId, 2);
  await tamper(`DELETE FROM audit_events WHERE run_id = '${runId}' AND seq = 8`);
  await t.restart();
  expect(await findings()).toContain(`cut_off ${runId}#8`);
});

test('a run that was removed whole is named', async () => {
  await tamper(`DELETE FROM audit_events WHERE run_id = 'run_other'`, ...COVER_TRACKS);
  expect(await findings()).toContain('removed run_other#1..3');
});

test('everything deleted, checkpoints and heads too, is found with the file alone', async () => {
  await tamper('DELETE FROM audit_events', ...COVER_TRACKS);
  const found = await findings();
  expect(found).toContain(`removed ${runId}#1..6`);
  expect(found).toContain('removed run_other#1..3');
  expect(found).toContain('removed system#1..1');
});

test('a record put in with a known key, and one put at the end, are named', async () => {
  await tamper(
    `INSERT INTO audit_events (run_id, seq, event_key, at, outcome, prev_hash, hash) VALUES ('run_other', 4, 'x', now(), 'allow', 'sha256:1', 'sha256:2')`,
  );
  const found = await findings();
  expect(found).toContain('changed run_other#4 (allow)');
  expect(found).toContain('inserted run_other#4 (allow)');
});

test('a grant without a token, with a token of another call, or with one that nobody signed is named', async () => {
  const other = await makeRequest(t);
  await t.approvers[0]!.client.decide(other.pending_id, { outcome: 'approved' });
  const grants = `run_id = '${runId}' AND outcome = 'approval_granted'`;
  await tamper(`UPDATE audit_events SET token = NULL WHERE ${grants}`);
  expect(await findings()).toContain(`grant_without_token ${runId}#2 (approval_granted)`);
  await tamper(
    `UPDATE audit_events SET token = (SELECT token FROM audit_events WHERE run_id = '${other.run_id}' AND outcome = 'approval_granted') WHERE ${grants}`,
  );
  expect(await findings()).toContain(`bad_signature ${runId}#2 (approval_granted)`);
  await tamper(`UPDATE audit_events SET token = 'e30.e30.e30' WHERE ${grants}`);
  expect(await findings()).toContain(`bad_signature ${runId}#2 (approval_granted)`);
});

test('a checkpoint that the service did not sign, and one that was changed, are named and not believed', async () => {
  await tamper(
    `INSERT INTO checkpoints (n, at, jws) SELECT max(n) + 1, now(), max(jws) FROM checkpoints`,
    `UPDATE checkpoints SET jws = replace(jws, '.', '.e') WHERE n = 1`,
  );
  const found = await findings();
  expect(found).toContain('bad_checkpoint checkpoint 1 in the ledger');
  expect(found.filter((finding) => finding.startsWith('bad_checkpoint')).length).toBe(2);
});

test('a lost, cut or altered checkpoint file is a finding, and sealing goes on behind it', async () => {
  const whole = await readFile(file.path, 'utf8');
  await writeFile(file.path, whole.split('\n').slice(1).join('\n'));
  expect(await findings()).toContain('missing_checkpoint checkpoint 1 in checkpoints.jsonl');
  await writeFile(file.path, `not a checkpoint\n${whole}`);
  expect(await findings()).toEqual(['bad_checkpoint checkpoints.jsonl:1']);
  await rm(file.path);
  expect((await findings())[0]).toMatch(/^missing_checkpoint checkpoint 1 in checkpoints\.jsonl$/);
  await appendEvents(t, 'run_other', 1);
  await sealAll(t.service.context, file);
  const after = await file.last();
  expect(after?.n).toBe(whole.trim().split('\n').length + 1);
});

test('a crash between file and database is mended at the next seal: numbers have no gap', async () => {
  await t.service.stop();
  await appendEvents(t, 'run_other', 1);
  await t.restart();
  await sealAll(t.service.context, file);
  // The service's own sealer is kept out while the crash is staged, as it would be by the crashed one's lock.
  await withSealLock(async () => {
    await tamper('DELETE FROM checkpoints WHERE n = (SELECT max(n) FROM checkpoints)', 'UPDATE run_heads SET sealed_seq = 0');
    await appendFile(file.path, '{"n":99,"half a li');
  });
  await sealAll(t.service.context, file);
  expect(await verify()).toMatchObject({ ok: true, findings: [] });
  const kept = await t.admin.query<{ n: number }>('SELECT n FROM checkpoints ORDER BY n');
  expect(kept.rows.map((row) => row.n)).toEqual(kept.rows.map((_, index) => index + 1));
});

test('more changed runs than one checkpoint holds make several, and each run is in one', async () => {
  await t.admin.query(`INSERT INTO run_heads (run_id, seq, hash) SELECT 'many_' || i, 1, 'sha256:x' FROM generate_series(1, 1500) i`);
  const before = (await file.last())?.n ?? 0;
  await sealAll(t.service.context, file);
  expect((await file.last())?.n).toBeGreaterThanOrEqual(before + 2);
  expect((await t.admin.query('SELECT 1 FROM run_heads WHERE sealed_seq < seq')).rows).toEqual([]);
  const opened = await openCheckpoint(t.service.context.keys.pinned, (await file.last())!);
  expect(opened.ok && opened.claims.total_runs).toBeGreaterThanOrEqual(1500);
});

test('a run that stopped is sealed within seconds without being asked', async () => {
  await appendEvents(t, 'run_ended', 1, 'run_stopped');
  const deadline = Date.now() + 5_000;
  while (Date.now() < deadline) {
    if ((await t.admin.query(`SELECT 1 FROM run_heads WHERE run_id = 'run_ended' AND sealed_seq = seq`)).rows.length === 1) return;
    await new Promise((resolve) => setTimeout(resolve, 100));
  }
  expect.fail('not sealed within 5 s');
});

async function exported(filter: { run?: string } = {}): Promise<string[]> {
  const lines: string[] = [];
  for await (const line of t.auditor.client.exportAudit(filter)) lines.push(line);
  return lines;
}

test('an export verifies offline, and shows a removed, changed or cut record', async () => {
  const lines = await exported();
  const pinned = { checkpointsFile: file.path, jwksFile: t.config.jwksFile };
  expect(await verifyExport(lines, pinned)).toMatchObject({ ok: true, events: 10, grants: 1 });
  expect(await verifyExport(lines)).toMatchObject({ ok: true });
  const at = (seq: number): number => lines.findIndex((line) => line.includes(`"run_id":"${runId}"`) && line.includes(`"seq":${seq},`));
  expect(
    (
      await verifyExport(
        lines.filter((_, index) => index !== at(3)),
        pinned,
      )
    ).findings[0],
  ).toMatchObject({ kind: 'removed', seq: 3 });
  expect(
    (
      await verifyExport(
        lines.filter((_, index) => index !== at(6)),
        pinned,
      )
    ).findings[0],
  ).toMatchObject({ kind: 'cut_off', seq: 6 });
  expect(
    (
      await verifyExport(
        lines.map((line, index) => (index === at(4) ? line.replace('search.read', 'search.reed') : line)),
        pinned,
      )
    ).findings[0],
  ).toMatchObject({ kind: 'changed', seq: 4 });
  await expect(verifyExport(['{"type":"surprise"}'])).rejects.toMatchObject({ code: 'usage' });
});

test('an export of one run verifies when the verifier is told so', async () => {
  const lines = await exported({ run: runId });
  expect(await verifyExport(lines, { run: runId, checkpointsFile: file.path, jwksFile: t.config.jwksFile })).toMatchObject({ ok: true, runs: 1, events: 6 });
  expect((await verifyExport(lines)).ok).toBe(false);
});

test('an export signed by somebody else does not verify against the pinned keys', async () => {
  const jwks = join(t.folder, 'other.json');
  await writeFile(jwks, JSON.stringify({ keys: [] }));
  const report = await verifyExport(await exported(), { jwksFile: jwks });
  expect(report.ok).toBe(false);
  expect(report.findings.map((finding) => finding.kind)).toEqual(expect.arrayContaining(['bad_signature', 'bad_checkpoint']));
});

test('after a rotation old grants and checkpoints still verify, and the new key signs', async () => {
  await t.restart({ HOLDPOINT_ROTATE_KEY: '1' });
  const made = await makeRequest(t);
  await t.approvers[0]!.client.decide(made.pending_id, { outcome: 'approved' });
  await sealAll(t.service.context, file);
  expect(await verify()).toMatchObject({ ok: true, grants: 2 });
  expect(t.service.context.keys.trusted).toHaveLength(2);
  expect((await t.auditor.client.audit({ run: 'system', outcome: 'key_changed' })).events).toHaveLength(2);
});

test('one hundred thousand records stream through the verifier', { timeout: 120_000 }, async () => {
  const { verifyAudit } = await import('../../adapters/audit-verify.ts');
  const { chainEvent, auditFacts, GENESIS } = await import('../../core/audit.ts');
  async function* many(): AsyncGenerator<AuditEvent> {
    for (let index = 0; index < 1_000; index += 1) {
      let head = { run_id: `run_${index}`, seq: 0, hash: GENESIS };
      for (let seq = 0; seq < 100; seq += 1) {
        const event = chainEvent(head, auditFacts({ event_key: `k${seq}`, outcome: 'allow' }), '2026-01-01T00:00:00.000Z', hashJson);
        head = event;
        yield event;
      }
    }
  }
  const report = await verifyAudit({ events: many(), stored: [], keys: new Map() });
  expect(report).toMatchObject({ ok: true, events: 100_000, runs: 1_000 });
});
