import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isStorable, storableText } from '../../core/text.ts';

const anyText = fc.string({ unit: fc.integer({ min: 0, max: 0xffff }).map((unit) => String.fromCharCode(unit)), maxLength: 40 });

describe('text for a database and a hash', () => {
  test.each([
    ['plain', 'plain'],
    ['', ''],
    ['a\0b', 'a\uFFFDb'],
    ['\ud800', '\uFFFD'],
    ['\udc00', '\uFFFD'],
    ['x\ud83d', 'x\uFFFD'],
    ['\ud83d\ude00', '\ud83d\ude00'],
    ['\ude00\ud83d', '\uFFFD\uFFFD'],
    ['\ud83d\ud83d\ude00', '\uFFFD\ud83d\ude00'],
    ['\ud83d\ude00\ude00', '\ud83d\ude00\uFFFD'],
    ['line\nbreak\ttab', 'line\nbreak\ttab'],
  ])('%j is kept as %j', (text, expected) => {
    expect(storableText(text)).toBe(expected);
    expect(isStorable(text)).toBe(text === expected);
  });

  test('survives UTF-8 as it is, has its length, and stays so', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        const stored = storableText(text);
        expect(Buffer.from(stored, 'utf8').toString('utf8')).toBe(stored);
        expect(stored).not.toContain('\0');
        expect(stored).toHaveLength(text.length);
        expect(storableText(stored)).toBe(stored);
        expect(isStorable(stored)).toBe(true);
      }),
    );
  });

  test('is left alone exactly when UTF-8 keeps it and it has no NUL', () => {
    fc.assert(
      fc.property(anyText, (text) => {
        expect(isStorable(text)).toBe(Buffer.from(text, 'utf8').toString('utf8') === text && !text.includes('\0'));
      }),
    );
  });
});
