import { afterEach, describe, expect, test, vi } from 'vitest';
import { sinceTime } from '../../cli/commands/audit.ts';
import { exitCodeOf } from '../../cli/exit-codes.ts';
import { duration, printTable, relative, styled } from '../../cli/output.ts';
import { visible } from '../../cli/visible.ts';
import { STOP_REASONS } from '../../core/words.ts';

afterEach(() => vi.restoreAllMocks());

describe('text from agents in a terminal', () => {
  test.each([
    ['\u001b[2J\u001b]0;x\u0007', '<U+001B>[2J<U+001B>]0;x<U+0007>'],
    ['pay \u202E001$ \u2066x\u2069', 'pay <U+202E>001$ <U+2066>x<U+2069>'],
    ['a\u200Bb\uFEFFc\u00ADd', 'a<U+200B>b<U+FEFF>c<U+00AD>d'],
    ['line\r\nnext\ttab', 'line<U+000D>\\nnext\\ttab'],
    ['\u{E0041}\u{E0042}', '<U+E0041><U+E0042>'],
    ['\uD800', '<U+D800>'],
    ['\u009B31m', '<U+009B>31m'],
    ['Grüße, 東京 👍', 'Grüße, 東京 👍'],
  ])('%j is shown as %j', (text, shown) => {
    expect(visible(text)).toBe(shown);
  });

  test('line breaks of a body stay, carriage returns do not', () => {
    expect(visible('a\nb\rc', { multiline: true })).toBe('a\nb<U+000D>c');
  });
});

test('a table is aligned, also with wide characters and hidden ones made visible', () => {
  const lines: string[] = [];
  vi.spyOn(process.stdout, 'write').mockImplementation((text) => lines.push(String(text)) > 0);
  printTable(
    [
      { a: '東京', b: 'x' },
      { a: 'ab\u202E', b: 'y' },
    ],
    [
      { title: 'A', value: (row) => row.a },
      { title: 'B', value: (row) => row.b },
    ],
  );
  expect(lines).toEqual(['A           B\n', '東京        x\n', 'ab<U+202E>  y\n']);
});

describe('on a terminal a table keeps to the line', () => {
  const row = { id: 'apr_1234567890', text: 'Send mail to ada@example.com: Your refund is on its way' };
  const shown = (columns: number): string[] => {
    const lines: string[] = [];
    vi.spyOn(process.stdout, 'write').mockImplementation((text) => lines.push(String(text)) > 0);
    const before = { isTTY: process.stdout.isTTY, columns: process.stdout.columns };
    Object.assign(process.stdout, { isTTY: true, columns });
    vi.stubEnv('NO_COLOR', '1');
    printTable(
      [row],
      [
        { title: 'ID', value: ({ id }) => id },
        { title: 'WHAT', value: ({ text }) => text },
      ],
    );
    Object.assign(process.stdout, before);
    vi.unstubAllEnvs();
    return lines;
  };

  test('the last column is cut', () => {
    expect(shown(50)).toEqual(['ID              WHAT\n', 'apr_1234567890  Send mail to ada@example.com: You…\n']);
  });

  test('or stands on a second line, where little room is left', () => {
    expect(shown(30)).toEqual(['ID\n', 'apr_1234567890\n', '  Send mail to ada@example.co…\n']);
  });
});

test('there is no colour when the output is no terminal', () => {
  expect(styled('red', 'x', { isTTY: false } as NodeJS.WriteStream)).toBe('x');
});

test('NO_COLOR turns colour off on a terminal', () => {
  const terminal = { isTTY: true } as NodeJS.WriteStream;
  vi.stubEnv('TERM', 'xterm');
  vi.stubEnv('NO_COLOR', '');
  expect(styled('red', 'x', terminal)).toBe('\u001b[31mx\u001b[39m');
  vi.stubEnv('NO_COLOR', '1');
  expect(styled('red', 'x', terminal)).toBe('x');
  vi.unstubAllEnvs();
});

test('times are told by their two largest units', () => {
  expect([0, 59_000, 60_000, 252_000, 3_900_000, 90_000_000].map(duration)).toEqual(['0 s', '59 s', '1 min', '4 min 12 s', '1 h 5 min', '1 d 1 h']);
  const now = Date.parse('2026-01-01T00:00:00Z');
  expect(relative('2026-01-01T00:04:12Z', now)).toBe('in 4 min 12 s');
  expect(relative('2025-12-31T23:57:00Z', now)).toBe('3 min ago');
});

test('every stop reason has its exit code', () => {
  expect(Object.fromEntries(STOP_REASONS.map((reason) => [reason, exitCodeOf(reason)]))).toEqual({
    completed: 0,
    approval_denied: 3,
    approval_timeout: 6,
    policy_denied: 3,
    budget_exceeded: 8,
    kill_switch: 8,
    cancelled: 9,
    approval_expired_unused: 6,
    outcome_unknown: 1,
    tool_failed: 1,
    planner_failed: 1,
  });
  expect(exitCodeOf('approval_required')).toBe(0);
});

test('--since takes ages and ISO times and refuses the rest', () => {
  const now = Date.parse('2026-01-02T00:00:00Z');
  expect(sinceTime('2h', now)).toBe('2026-01-01T22:00:00.000Z');
  expect(sinceTime('2026-01-01', now)).toBe('2026-01-01T00:00:00.000Z');
  for (const bad of ['yesterday', '5', '-2h', '999999999d', '', '2026-99-99']) expect(() => sinceTime(bad, now)).toThrow(/is no time/);
});
