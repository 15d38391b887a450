import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { argsHash, canonical, hashJson, sha256 } from '../../adapters/hashing.ts';
import { isStorable } from '../../core/text.ts';

const plainJson = fc.jsonValue({ stringUnit: 'binary' }).filter(isExact);

function isExact(value: unknown): boolean {
  if (typeof value === 'number') return Number.isFinite(value) && (!Number.isInteger(value) || Number.isSafeInteger(value));
  if (typeof value === 'string') return isStorable(value);
  if (typeof value === 'object' && value !== null) return Object.entries(value).every(([key, member]) => isStorable(key) && isExact(member));
  return true;
}

/** The same value with the members of every object in reverse order. */
function reversed(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(reversed);
  if (typeof value === 'object' && value !== null)
    return Object.fromEntries(
      Object.entries(value)
        .reverse()
        .map(([key, member]) => [key, reversed(member)]),
    );
  return value;
}

describe('the canonical form of RFC 8785', () => {
  test('is that of the example in section 3.2.2', () => {
    // The first number of the example, 333333333.33333329, is a double as written; 1E30 is left out: it is an integer beyond 2^53.
    const text =
      '{"numbers":[333333333.33333329,4.50,2e-3,0.000000000000000000000000001],"string":"\\u20ac$\\u000F\\u000aA\'\\u0042\\u0022\\u005c\\\\\\"\\/","literals":[null,true,false]}';
    expect(canonical(JSON.parse(text))).toBe(
      '{"literals":[null,true,false],"numbers":[333333333.3333333,4.5,0.002,1e-27],"string":"€$\\u000f\\nA\'B\\"\\\\\\\\\\"/"}',
    );
  });

  test('sorts members by UTF-16 code units, as in section 3.2.3', () => {
    const value = JSON.parse(
      '{"\\u20ac":"Euro Sign","\\r":"Carriage Return","\\ufb33":"Hebrew Letter Dalet With Dagesh","1":"One","\\ud83d\\ude00":"Emoji: Grinning Face","\\u0080":"Control","\\u00f6":"Latin Small Letter O With Diaeresis"}',
    ) as object;
    expect(Object.values(JSON.parse(canonical(value)) as object)).toHaveLength(7);
    const names = [...canonical(value).matchAll(/:"([^"]+)"/g)].map(([, name]) => name);
    expect(names).toEqual([
      'Carriage Return',
      'One',
      'Control',
      'Latin Small Letter O With Diaeresis',
      'Euro Sign',
      'Emoji: Grinning Face',
      'Hebrew Letter Dalet With Dagesh',
    ]);
  });

  test.each([
    ['0000000000000000', '0'],
    ['8000000000000000', '0'],
    ['0000000000000001', '5e-324'],
    ['8000000000000001', '-5e-324'],
    ['4340000000000000', undefined],
    ['44b52d02c7e14af6', undefined],
    ['444b1ae4d6e2ef4e', undefined],
    ['3eb0c6f7a0b5ed8d', '0.000001'],
    ['3eb0c6f7a0b5ed8c', '9.999999999999997e-7'],
    ['41b3de4355555553', '333333333.3333332'],
    ['41b3de4355555554', '333333333.33333325'],
    ['41b3de4355555555', '333333333.3333333'],
    ['becbf647612f3696', '-0.0000033333333333333333'],
  ])('writes the number with the bits %s as in appendix B, or refuses it beyond 2^53', (bits, expected) => {
    const number = Buffer.from(bits, 'hex').readDoubleBE();
    if (expected === undefined) expect(() => canonical(number)).toThrow('beyond 2^53');
    else expect(canonical(number)).toBe(expected);
  });

  test('does not depend on the order of members', () => {
    fc.assert(
      fc.property(plainJson, (value) => {
        expect(canonical(reversed(value))).toBe(canonical(value));
      }),
    );
  });

  test('reads back as the same value', () => {
    fc.assert(
      fc.property(plainJson, (value) => {
        expect(canonical(JSON.parse(canonical(value)))).toBe(canonical(value));
      }),
    );
  });
});

describe('what has no canonical form', () => {
  test.each([
    ['not a number', Number.NaN],
    ['infinity', { amount: Number.POSITIVE_INFINITY }],
    ['an integer beyond 2^53', [2 ** 53]],
    ['a lone surrogate', '\ud800'],
    ['a lone surrogate in a key', { '\udc00': 1 }],
    ['a function', () => 1],
    ['nothing', undefined],
    ['a big integer', 10n],
    ['a ring', ring()],
  ])('%s is refused', (_name, value) => {
    expect(() => canonical(value)).toThrow();
  });
});

function ring(): unknown {
  const value: Record<string, unknown> = {};
  value.self = value;
  return value;
}

describe('hashes', () => {
  test('are sha256: and the hex digest of the UTF-8 bytes', () => {
    expect(sha256('abc')).toBe('sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad');
    expect(sha256('é')).toBe('sha256:4a99557e4033c3539de2eb65472017cad5f9557f7a0625a09f1c3f6e2ba69c4c');
    expect(hashJson({ b: 1, a: [] })).toBe(sha256('{"a":[],"b":1}'));
  });

  test('of arguments bind the tool to them', () => {
    expect(argsHash('email.send', { to: 'a@example.com' })).toBe(hashJson({ tool: 'email.send', args: { to: 'a@example.com' } }));
    expect(argsHash('email.send', { to: 'a' })).not.toBe(argsHash('sms.send', { to: 'a' }));
  });

  test('differ when any value differs', () => {
    fc.assert(
      fc.property(plainJson, plainJson, (a, b) => {
        expect(argsHash('t', a) === argsHash('t', b)).toBe(canonical(a) === canonical(b));
      }),
    );
  });
});
