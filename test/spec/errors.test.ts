import { readFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { assertNever, ERROR_TABLE, type ErrorCode, HoldpointError, isHoldpointError, messageOf } from '../../core/errors.ts';

const rows = Object.entries(ERROR_TABLE) as [ErrorCode, { status: number; exit: number; retryable: boolean; title: string }][];

describe('docs/errors.md', () => {
  test('lists exactly the codes of the table, with their status, exit code and meaning', () => {
    const text = readFileSync(new URL('../../docs/errors.md', import.meta.url), 'utf8');
    const listed = [...text.matchAll(/^\| `(\w+)` \| (\d+) \| (\d+) \| (yes|no) \| (.+) \|$/gm)].map(([, code, status, exit, again, title]) => ({
      code,
      status: Number(status),
      exit: Number(exit),
      retryable: again === 'yes',
      title,
    }));
    expect(listed).toEqual(rows.map(([code, { status, exit, retryable, title }]) => ({ code, status, exit, retryable, title })));
  });
});

describe('the table of errors', () => {
  test.each(rows)('%s has a status of HTTP, an exit code of a process and a title without a full stop', (_code, { status, exit, title }) => {
    expect(status === 200 || (status >= 400 && status < 600)).toBe(true);
    expect(Number.isInteger(exit) && exit >= 0 && exit < 128).toBe(true);
    expect(title).toMatch(/^\S.*[^.]$/);
  });

  test('exits with 0 only when nothing went wrong', () => {
    expect(rows.filter(([, { exit }]) => exit === 0).map(([code]) => code)).toEqual(['already_decided']);
  });
});

describe('an error', () => {
  test('keeps code, details, hint and cause', () => {
    const cause = new Error('inner');
    const error = new HoldpointError('not_found', 'there is no run run_a', { details: { run_id: 'run_a' }, hint: 'holdpoint audit', cause });
    expect(error).toMatchObject({
      name: 'HoldpointError',
      code: 'not_found',
      message: 'there is no run run_a',
      details: { run_id: 'run_a' },
      hint: 'holdpoint audit',
      cause,
    });
  });

  test('has no cause, no hint and empty details unless they are given', () => {
    const error = new HoldpointError('internal', 'x');
    expect('cause' in error).toBe(false);
    expect(error.hint).toBeUndefined();
    expect(error.details).toEqual({});
  });

  test('is known by its mark, also when another copy of the module made it', () => {
    expect(isHoldpointError(new HoldpointError('usage', 'x'))).toBe(true);
    expect(isHoldpointError({ [Symbol.for('holdpoint.error')]: true })).toBe(true);
    for (const other of [new Error('x'), { code: 'usage' }, null, undefined, 'usage', 1]) expect(isHoldpointError(other)).toBe(false);
  });

  test.each([
    [new Error('a sentence'), 'a sentence'],
    ['a text', 'a text'],
    [undefined, 'undefined'],
    [12, '12'],
  ])('messageOf says something of whatever was thrown: %o', (thrown, expected) => {
    expect(messageOf(thrown)).toBe(expected);
  });

  test('assertNever refuses a value that the types do not know', () => {
    expect(() => assertNever({ type: 'new' } as never, 'command')).toThrow('unknown command: {"type":"new"}');
  });
});
