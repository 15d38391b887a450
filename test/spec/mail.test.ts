import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { createMailbox, type Mail, readMail } from '../../core/mail.ts';
import { LIMITS } from '../../core/words.ts';

const mail = (n: number, pendingId = 'apr_1'): Mail => ({
  pending_id: pendingId,
  signal: 'approval_granted',
  token: `head.${n}.signature-${String(n).padStart(64, '0')}`,
});
const post = (box: ReturnType<typeof createMailbox>, ...messages: Mail[]): void => {
  for (const { signal, ...argument } of messages) box.post(signal, argument);
};

describe('reading a signal', () => {
  test('never throws, whatever anybody sends, and keeps ids and tokens of their form only', () => {
    fc.assert(
      fc.property(
        fc.oneof(fc.anything({ withNullPrototype: true, withObjectString: true }), fc.record({ pending_id: fc.anything(), token: fc.anything() })),
        (argument) => {
          const read = readMail('approval_granted', argument);
          if (read === undefined) return;
          expect(read.pending_id).toMatch(/^[A-Za-z0-9_-]{1,64}$/);
          expect(read.token === null || /^[A-Za-z0-9_.-]*$/.test(read.token)).toBe(true);
        },
      ),
    );
  });

  test.each([
    ['a token with a space', 'a b'],
    ['a token over the limit', 'x'.repeat(LIMITS.token + 1)],
    ['a number', 5],
    ['no token', undefined],
    ['a token with a line break at its end', 'a.b.c\n'],
  ])('%s is kept as no token, so that the attempt can be recorded', (_name, token) => {
    expect(readMail('approval_denied', { pending_id: 'apr_1', token })).toEqual({ pending_id: 'apr_1', signal: 'approval_denied', token: null });
  });

  test.each([
    [null],
    [undefined],
    ['apr_1'],
    [[]],
    [{}],
    [{ pending_id: '' }],
    [{ pending_id: 'apr 1' }],
    [{ pending_id: 'x'.repeat(65) }],
    [{ pending_id: 'apr_1\n' }],
    [{ pending_id: ['apr_1'] }],
  ])('%o names no request and is no mail', (argument) => {
    expect(readMail('approval_granted', argument)).toBeUndefined();
  });
});

describe('a mailbox', () => {
  test('gives mail in its order, a batch at a time', () => {
    const box = createMailbox();
    const all = Array.from({ length: LIMITS.batch + 3 }, (_, n) => mail(n));
    post(box, ...all);
    expect(box.take()).toEqual(all.slice(0, LIMITS.batch));
    expect(box.take()).toEqual(all.slice(LIMITS.batch));
    expect(box.hasNews()).toBe(false);
  });

  test('takes only mail for the requests that are open', () => {
    const box = createMailbox();
    post(box, mail(1, 'apr_closed'));
    box.openTo(new Set(['apr_1']));
    post(box, mail(2, 'apr_other'), mail(3));
    expect(box.take()).toEqual([mail(3)]);
  });

  test('takes mail that was judged no second time', () => {
    const box = createMailbox();
    post(box, mail(1), mail(1));
    const batch = box.take();
    box.remember(batch);
    post(box, mail(1), mail(2));
    expect(box.take()).toEqual([mail(2)]);
  });

  test('judges the same token again under the other signal and for another request', () => {
    const box = createMailbox();
    box.remember([mail(1)]);
    post(box, { ...mail(1), signal: 'approval_denied' }, mail(1, 'apr_2'));
    expect(box.take()).toHaveLength(2);
  });

  test('stays bounded under a flood, forgets the oldest, and remembers that the ledger must be asked', () => {
    const box = createMailbox();
    for (let n = 0; n < 3_000; n++) post(box, mail(n));
    const kept = box.contents().mail;
    expect(kept.length).toBeLessThanOrEqual(500);
    expect(kept.at(-1)).toEqual(mail(2_999));
    expect(box.takeLoss()).toBe(true);
    expect(box.takeLoss()).toBe(false);
  });

  test('holds at most 262,144 characters, however long the tokens', () => {
    const box = createMailbox();
    for (let n = 0; n < 200; n++) post(box, { ...mail(n), token: `${n}.`.padEnd(LIMITS.token, 'x') });
    const characters = box.contents().mail.reduce((sum, { pending_id: id, token }) => sum + id.length + (token?.length ?? 0), 0);
    expect(characters).toBeLessThanOrEqual(262_144);
    expect(box.contents().ask_ledger).toBe(true);
  });

  test('has news when the ledger must be asked, with no mail at all', () => {
    const box = createMailbox();
    expect(box.hasNews()).toBe(false);
    box.askLedger();
    expect(box.hasNews()).toBe(true);
  });

  test('asks the ledger when an earlier execution had to', () => {
    const after = createMailbox();
    after.restore({ mail: [], judged: [], ask_ledger: true });
    expect(after.takeLoss()).toBe(true);
  });

  test('puts what an earlier execution left before what came since, and knows what that one judged', () => {
    const before = createMailbox();
    before.remember([mail(9)]);
    post(before, mail(1));
    const after = createMailbox();
    post(after, mail(2));
    after.restore(before.contents());
    post(after, mail(9));
    expect(after.take()).toEqual([mail(1), mail(2)]);
  });
});
