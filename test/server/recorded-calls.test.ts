/** `GET /v1/audit/calls`. What the gateway writes is written here by its role; test/e2e has the real one. */
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { appendAudit, ledgerNow, lockHead } from '../../adapters/chain.ts';
import { transaction } from '../../adapters/database.ts';
import { argsHash, canonical } from '../../adapters/hashing.ts';
import type { RecordedCall } from '../../client/index.ts';
import type { RequestStatus } from '../../core/words.ts';
import { type AuditFacts, auditFacts } from '../../core/audit.ts';
import { makeRequest, startTestService, type TestService } from './harness.ts';

let t: TestService;
beforeAll(async () => {
  t = await startTestService({ approvers: 1 });
});
afterAll(() => t.close());

/** With a status: a question, and what became of its request. */
type Event = [outcome: AuditFacts['outcome'], key: string, facts?: Partial<AuditFacts>, status?: RequestStatus];
interface Made {
  run: string;
  call?: string;
  execution?: string;
  kind?: 'read' | 'write';
  args?: unknown;
}

/** A call and what the audit says of it, one event after the other. */
async function make({ run, call = '1.1', execution = 'exec-1', kind = 'write', args = { n: 1 } }: Made, events: Event[]): Promise<string> {
  const tool = 'db.write';
  const args_hash = argsHash(tool, args);
  await transaction(t.worker, async (client) => {
    await client.query('INSERT INTO arguments (args_hash, tool, canonical) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING', [args_hash, tool, canonical(args)]);
    await client.query(
      `INSERT INTO calls (run_id, first_execution_id, call_id, step, position, tool, kind, tool_hash, args_hash, status) VALUES ($1, $2, $3, 1, 1, $4, $5, 'sha256:t', $6, 'done') ON CONFLICT DO NOTHING`,
      [run, execution, call, tool, kind, args_hash],
    );
    const head = await lockHead(client, run);
    for (const [outcome, key, facts, status] of events) {
      const at = await ledgerNow(client);
      if (status !== undefined) {
        await client.query(
          `INSERT INTO approval_requests (pending_id, run_id, first_execution_id, call_id, tool, kind, idempotent, tool_tier, tool_hash, args_hash, preview, reason, rule, tier,
             policy_hash, agent, quorum, ttl_seconds, execute_within_seconds, created_at, expires_at, token_exp, status)
           VALUES ($1, $2, $3, $4, $5, $6, true, 'high', 'sha256:t', $7, 'p', 'asks', 'r', 'high', 'sha256:p', 'support', 1, 300, 300, $8, 'infinity', 0, $9)`,
          [facts?.pending_id, run, execution, call, tool, kind, args_hash, at, status],
        );
      }
      const about = { agent: 'support', owner: 'olga', requester: 'rita', tool, call_id: call, args_hash };
      await appendAudit(client, head, auditFacts({ event_key: `${execution}/${call}/${key}`, outcome, ...about, ...facts }), at);
    }
  });
  return args_hash;
}

const callsOf = async (run: string): Promise<RecordedCall[]> => (await t.auditor.client.recordedCalls({ run })).calls;

const asked = (id: string, status: RequestStatus = 'open'): Event => [
  'approval_required',
  `approval_required/${id}`,
  { pending_id: id, reason: 'pending_human_review', rule: 'r' },
  status,
];

describe('a recorded call', () => {
  test('that was asked about comes with the arguments it was judged by, the facts of the question and what people said', async () => {
    const made = await makeRequest(t, { args: { to: 'b@example.org' } });
    expect(await callsOf(made.run_id)).toMatchObject([{ answer: 'open' }]);
    await t.approvers[0]!.client.decide(made.pending_id, { outcome: 'denied' });
    const [event] = (await t.auditor.client.audit({ run: made.run_id })).events;
    expect(await callsOf(made.run_id)).toEqual([
      {
        run_id: made.run_id,
        call_id: '1.1',
        at: event!.at,
        agent: 'support',
        owner: 'olga',
        requester: 'rita',
        goal: '',
        tool: 'email.send',
        kind: 'write',
        idempotent: false,
        tool_tier: null,
        outcome: 'approval_required',
        rule: null,
        pending_id: made.pending_id,
        answer: 'denied',
        args_hash: made.args_hash,
        args_state: 'stored',
        args: { to: 'b@example.org' },
      },
    ]);
  });

  test.each<[string, Event[], Partial<RecordedCall>]>([
    [
      'a write that was allowed, from when it began',
      [
        ['execution_started', 'execution_started/1', { rule: 'w' }],
        ['allow', 'allow', { rule: 'w', result: 'ok' }],
      ],
      { outcome: 'allow', rule: 'w', kind: 'write', answer: null, idempotent: null },
    ],
    ['a read', [['allow', 'allow', { rule: 'reads', result: 'ok' }]], { outcome: 'allow', rule: 'reads', answer: null }],
    ['a denial', [['deny', 'deny', { reason: 'policy_denied', rule: 'no' }]], { outcome: 'deny', rule: 'no', answer: null }],
    [
      'an approval, not its execution',
      [
        asked('apr_g', 'approved'),
        ['approval_granted', 'approval_granted/d', { pending_id: 'apr_g' }],
        ['execution_started', 'execution_started/1', { pending_id: 'apr_g' }],
        ['allow', 'allow', { pending_id: 'apr_g' }],
      ],
      { outcome: 'approval_required', pending_id: 'apr_g', answer: 'approved', idempotent: true, tool_tier: 'high' },
    ],
    [
      'the first of two questions, with what became of the second',
      [
        asked('apr_1', 'superseded'),
        ['request_superseded', 'request_superseded/apr_1', { pending_id: 'apr_1' }],
        asked('apr_2', 'timed_out'),
        ['approval_timeout', 'approval_timeout/apr_2', { pending_id: 'apr_2' }],
      ],
      { pending_id: 'apr_1', answer: 'timed_out' },
    ],
    [
      'a question that was opened again, as open',
      [
        asked('apr_o'),
        ['approval_granted', 'approval_granted/d', { pending_id: 'apr_o' }],
        ['approval_required', 'approval_required/apr_o/2/0', { pending_id: 'apr_o', reason: 'more_votes_needed' }],
      ],
      { pending_id: 'apr_o', answer: 'open' },
    ],
    ['a question that was superseded and not asked again, as open', [asked('apr_s', 'superseded')], { pending_id: 'apr_s', answer: 'open' }],
    [
      'a write that was interrupted and tried again',
      [
        ['execution_started', 'execution_started/1', { rule: 'w' }],
        ['execution_started', 'execution_started/2', { rule: 'later' }],
        ['allow', 'allow', { rule: 'later' }],
      ],
      { outcome: 'allow', rule: 'w' },
    ],
    [
      'a question whose tool then needed none',
      [asked('apr_t', 'superseded'), ['execution_started', 'execution_started/1'], ['allow', 'allow']],
      { outcome: 'approval_required', pending_id: 'apr_t', answer: 'open' },
    ],
    [
      'a question whose run was stopped, as cancelled and not as denied',
      [asked('apr_k', 'cancelled'), ['approval_cancelled', 'approval_cancelled/apr_k', { pending_id: 'apr_k' }], ['deny', 'deny', { reason: 'policy_denied' }]],
      { outcome: 'approval_required', answer: 'cancelled' },
    ],
  ])('is there once: %s', async (name, events, expected) => {
    const run = `run_once_${name.length}`;
    await make({ run, kind: name === 'a read' ? 'read' : 'write' }, events);
    const found = await callsOf(run);
    expect(found).toMatchObject([{ call_id: '1.1', args: { n: 1 }, ...expected }]);
    expect(found[0]?.at).toBe((await t.auditor.client.audit({ run })).events[0]?.at);
  });

  test.each(['kill_switch', 'budget_exceeded', 'unknown_tool', 'invalid_arguments', 'call_conflict', 'approval_expired_unused'])(
    'is none that policy did not judge: %s',
    async (reason) => {
      await make({ run: `run_${reason}` }, [['deny', `deny/${reason}`, { reason }]]);
      expect(await callsOf(`run_${reason}`)).toEqual([]);
    },
  );

  test('of another execution under the same run is another call', async () => {
    await make({ run: 'run_two' }, [asked('apr_x1')]);
    await make({ run: 'run_two', execution: 'exec-2' }, [asked('apr_x2')]);
    expect((await callsOf('run_two')).map(({ pending_id }) => pending_id)).toEqual(['apr_x1', 'apr_x2']);
  });

  test('says that its arguments were erased or altered, and gives none', async () => {
    const erased = await make({ run: 'run_gone', args: { secret: 1 } }, [asked('apr_e')]);
    const altered = await make({ run: 'run_gone', call: '1.2', args: { secret: 2 } }, [asked('apr_a')]);
    const broken = await make({ run: 'run_gone', call: '1.3', args: { secret: 3 } }, [asked('apr_b')]);
    await t.admin.query('DELETE FROM arguments WHERE args_hash = $1', [erased]);
    await t.admin.query(`UPDATE arguments SET canonical = '{"secret":7}' WHERE args_hash = $1`, [altered]);
    await t.admin.query(`UPDATE arguments SET canonical = '{"secret":' WHERE args_hash = $1`, [broken]);
    expect((await callsOf('run_gone')).map(({ args, args_state }) => [args_state, args])).toEqual([
      ['erased', null],
      ['altered', null],
      ['altered', null],
    ]);
  });
});

test('a record at a time that no clock shows does not end the list', async () => {
  await t.admin.query(
    `INSERT INTO audit_events (run_id, seq, event_key, at, outcome, reason, tool, call_id, args_hash, prev_hash, hash)
     VALUES ('run_odd', 1, 'exec-1/1.1/deny', 'infinity', 'deny', 'policy_denied', 'db.write', '1.1', 'sha256:x', 'x', 'x')`,
  );
  expect(await callsOf('run_odd')).toMatchObject([{ at: 'Infinity', outcome: 'deny', args_state: 'erased' }]);
});

describe('the list of recorded calls', () => {
  test('is for everybody who may read the audit trail, and for nobody without a key', async () => {
    await make({ run: 'run_roles' }, [asked('apr_r')]);
    for (const { client } of [t.operator, t.auditor, t.approvers[0]!]) expect((await client.recordedCalls({ run: 'run_roles' })).calls).toHaveLength(1);
    expect((await fetch(`${t.service.url}/v1/audit/calls`)).status).toBe(401);
  });

  /** Everything, page by page. */
  async function paged(filter: Parameters<typeof t.auditor.client.recordedCalls>[0]): Promise<RecordedCall[][]> {
    const pages: RecordedCall[][] = [];
    let cursor: string | undefined;
    do {
      const page = await t.auditor.client.recordedCalls({ ...filter, cursor });
      pages.push(page.calls);
      cursor = page.next ?? undefined;
    } while (cursor !== undefined);
    return pages;
  }

  test('comes in pages that hold each call once, in order of time; a page without one is not the end', async () => {
    for (const call of ['1.1', '2.1', '3.1']) {
      await make({ run: 'run_pages', call }, [
        ['execution_started', 'execution_started/1', {}],
        ['allow', 'allow', {}],
      ]);
    }
    const pages = await paged({ run: 'run_pages', limit: 1 });
    expect(pages.map((page) => page.length)).toEqual([1, 0, 1, 0, 1, 0]);
    expect(pages.flat()).toEqual(await callsOf('run_pages'));
    expect(pages.flat().map(({ call_id }) => call_id)).toEqual(['1.1', '2.1', '3.1']);
  });

  test('begins with the time that was asked for, by the first judgement', async () => {
    await make({ run: 'run_since' }, [asked('apr_s1')]);
    await new Promise((resolve) => setTimeout(resolve, 20));
    const since = new Date().toISOString();
    await make({ run: 'run_since', call: '2.1' }, [asked('apr_s2')]);
    await make({ run: 'run_since' }, [asked('apr_s3')]);
    expect((await t.auditor.client.recordedCalls({ run: 'run_since', since })).calls.map(({ call_id }) => call_id)).toEqual(['2.1']);
  });

  test('holds no more than two megabytes of arguments in a page, and one call at least', async () => {
    for (let n = 0; n < 20; n += 1) await make({ run: 'run_large', call: `${n + 1}.1`, args: { n, text: 'x'.repeat(250_000) } }, [asked(`apr_l${n}`)]);
    const pages = await paged({ run: 'run_large' });
    expect(pages.map((page) => page.length)).toEqual([8, 8, 4]);
    expect(new Set(pages.flat().map(({ call_id }) => call_id)).size).toBe(20);
  });

  test.each(['limit=0', 'limit=501', 'since=yesterday', 'cursor=nonsense', 'tool=db.write'])('refuses %s', async (query) => {
    const answer = await fetch(`${t.service.url}/v1/audit/calls?${query}`, { headers: { Authorization: `Bearer ${t.auditor.key}` } });
    expect([answer.status, ((await answer.json()) as { code: string }).code]).toEqual([400, 'invalid_request']);
  });
});
