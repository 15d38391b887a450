/** Few files, each small enough to be read at once; no escape from the type checker. */
import { expect, test } from 'vitest';
import { allSources, withoutComments } from './sources.ts';

const MAX_FILE_LINES = 350;
const MAX_FUNCTION_LINES = 60;

const sources = allSources();

/** Functions as the formatter leaves them: they begin on a line that ends in `{` and end at the same depth of indentation. */
function functionsOf(text: string): { line: number; length: number }[] {
  const lines = text.split('\n');
  const begins =
    /^(\s*)(?:export\s+)?(?:default\s+)?(?:async\s+)?(?:function\b.*|(?:const|let)\s+\w+\s*=\s*(?:async\s*)?\(.*=>\s*|(?:async\s+)?\w+\(.*\)(?::\s*[^=]+)?\s*)\{$/;
  return lines.flatMap((line, index) => {
    const match = begins.exec(line);
    if (!match || /^\s*(if|for|while|switch|catch)\b/.test(line)) return [];
    const end = lines.findIndex((other, at) => at > index && other.startsWith(`${match[1]}}`));
    return end < 0 ? [] : [{ line: index + 1, length: end - index + 1 }];
  });
}

test(`no file has more than ${MAX_FILE_LINES} lines`, () => {
  const long = sources.map(({ path, text }) => ({ path, lines: text.trimEnd().split('\n').length })).filter(({ lines }) => lines > MAX_FILE_LINES);
  expect(long).toEqual([]);
  expect(sources.length).toBeGreaterThan(30);
});

test(`no function has more than ${MAX_FUNCTION_LINES} lines`, () => {
  const functions = sources.flatMap(({ path, text }) => functionsOf(text).map((found) => ({ path, ...found })));
  expect(functions.filter(({ length }) => length > MAX_FUNCTION_LINES)).toEqual([]);
  expect(functions.length).toBeGreaterThan(200);
});

test('no any, no non-null assertion, no suppressed check', () => {
  const escapes = /:\s*any\b|\bas any\b|<any\b|\bany\[\]|@ts-(ignore|expect-error|nocheck)|(?:oxlint|eslint)-disable|[\w)\]]!(?:[.;,)\]]|$)/m;
  const found = sources.flatMap(({ path, text }) =>
    withoutComments(text)
      .split('\n')
      .flatMap((line, index) => (escapes.test(line.replace(/'[^']*'|`[^`]*`/g, "''")) ? [`${path}:${index + 1} ${line.trim()}`] : [])),
  );
  expect(found).toEqual([]);
  expect(escapes.test('const x = y as any;')).toBe(true);
  expect(escapes.test('return rows[0]!.id;')).toBe(true);
});

test('nothing says that it is not finished', () => {
  const found = sources.flatMap(({ path, text }) => (/\b(TODO|FIXME|XXX|HACK)\b/.test(text) ? [path] : []));
  expect(found).toEqual([]);
});
