import fc from 'fast-check';
import { expect, test } from 'vitest';
import { makeVisible } from '../../core/visible.ts';

const text = fc.string({
  unit: fc.oneof(
    fc.integer({ min: 0, max: 0x10ffff }).map((point) => String.fromCodePoint(point)),
    fc.constantFrom('\ud800', '\udfff', '\u202e', '\u{e0041}', '\n', 'a'),
  ),
});

test('whatever goes in, no control, format, separator, private or surrogate character but the line feed comes out', () => {
  fc.assert(
    fc.property(text, (input) => {
      expect(makeVisible(input).replaceAll('\n', '')).not.toMatch(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Co}\p{Cs}]/u);
    }),
    { numRuns: 2_000 },
  );
});

test('characters that reorder, hide or imitate a space are written out', () => {
  const cases = {
    '\u202e': '202e',
    '\u200b': '200b',
    '\ufeff': 'feff',
    '\u{e0041}': 'e0041',
    '\ufe0f': 'fe0f',
    '\u00a0': 'a0',
    '\u3164': '3164',
    '\u2800': '2800',
    '\ud800': 'd800',
    '\u2028': '2028',
    '\t': '9',
    '\r': 'd',
  };
  for (const [hidden, hex] of Object.entries(cases)) expect(makeVisible(`a${hidden}b`)).toBe(`a\\u{${hex}}b`);
});

test('ordinary text of any script, spaces and line feeds stay as they are', () => {
  const ordinary = 'Grüße, 世界! שלום\n  {"a": 1} — ½ 👍';
  expect(makeVisible(ordinary)).toBe(ordinary);
});

test('in JSON text a written-out character cannot be confused with one that was typed as an escape', () => {
  expect(makeVisible(JSON.stringify('\u202e'))).toBe('"\\u{202e}"');
  expect(makeVisible(JSON.stringify('\\u{202e}'))).toBe('"\\\\u{202e}"');
});
