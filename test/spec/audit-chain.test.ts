import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { hashJson } from '../../adapters/hashing.ts';
import { type AuditEvent, auditFacts, chainEvent, GENESIS, hashMatches } from '../../core/audit.ts';

const AT = '2026-03-01T12:00:00.000Z';

function chain(length: number): AuditEvent[] {
  const events: AuditEvent[] = [];
  for (let index = 0; index < length; index++) {
    const last = events.at(-1);
    const facts = auditFacts({ event_key: `key/${index}`, outcome: 'allow', tool: 'search.read', reason: `number ${index}` });
    events.push(chainEvent({ run_id: 'run_a', seq: last?.seq ?? 0, hash: last?.hash ?? GENESIS }, facts, AT, hashJson));
  }
  return events;
}

/** True when each event's hash is right and names the one before. */
const holds = (events: readonly AuditEvent[]): boolean =>
  events.every((event, index) => hashMatches(event, hashJson) && event.prev_hash === (events[index - 1]?.hash ?? GENESIS) && event.seq === index + 1);

describe('the audit chain', () => {
  test('begins at 1 with the genesis hash, and each event names the one before', () => {
    const [first, second] = chain(2);
    expect(first).toMatchObject({ seq: 1, prev_hash: GENESIS });
    expect(second).toMatchObject({ seq: 2, prev_hash: first?.hash });
    expect(holds(chain(5))).toBe(true);
  });

  test('every member of an event is covered by its hash, null ones too', () => {
    const [event] = chain(1) as [AuditEvent];
    const members = Object.keys(event).filter((key) => key !== 'hash');
    expect(members.length).toBeGreaterThanOrEqual(22);
    for (const member of members) {
      const value = event[member as keyof AuditEvent];
      const changed = { ...event, [member]: typeof value === 'number' ? value + 1 : `${value ?? ''}x` };
      expect(hashMatches(changed, hashJson), `${member} changed`).toBe(false);
      const { [member as keyof AuditEvent]: _gone, ...without } = event;
      expect(hashMatches(without as AuditEvent, hashJson), `${member} removed`).toBe(false);
    }
  });

  test('an added member breaks the hash', () => {
    const [event] = chain(1) as [AuditEvent];
    expect(hashMatches({ ...event, note: 'harmless' } as AuditEvent, hashJson)).toBe(false);
  });

  test('a change, a removal, a swap or an insertion anywhere breaks it', () => {
    const events = chain(6);
    fc.assert(
      fc.property(fc.constantFrom('change', 'remove', 'swap', 'repeat'), fc.nat({ max: 4 }), (tampering, at) => {
        const copy = events.map((event) => ({ ...event }));
        const here = copy[at] as AuditEvent;
        if (tampering === 'change') copy[at] = { ...here, reason: 'something else' };
        if (tampering === 'remove') copy.splice(at, 1);
        if (tampering === 'swap') copy.splice(at, 2, copy[at + 1] as AuditEvent, here);
        if (tampering === 'repeat') copy.splice(at, 0, here);
        expect(holds(copy)).toBe(false);
      }),
    );
  });

  test('a changed event with a hash of its own no longer fits the next one', () => {
    const [first, second] = chain(2) as [AuditEvent, AuditEvent];
    const { hash: _hash, ...rest } = { ...first, reason: 'forged' };
    const forged = { ...rest, hash: hashJson(rest) };
    expect(hashMatches(forged, hashJson)).toBe(true);
    expect(holds([forged, second])).toBe(false);
  });
});
