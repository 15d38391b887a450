/** Reads YAML or JSON against a schema; every problem has a file, a line and a column. */
import { type Document, isAlias, isMap, isNode, isScalar, LineCounter, parseAllDocuments, visit } from 'yaml';
import type { z } from 'zod';
import { type ErrorCode, HoldpointError, messageOf } from '../core/errors.ts';
import { LIMITS } from '../core/words.ts';

/** Line and column count from 1. `path` is the field, `policy.rules.0.id` say, empty for the whole file. */
export interface FileProblem {
  file: string;
  line: number;
  column: number;
  path: string;
  message: string;
}

type Path = readonly PropertyKey[];
type Place = (path: Path, onKey?: boolean) => { line: number; column: number };

/** A file that fits its schema, and where its parts stand. */
export interface ParsedFile<T> {
  value: T;
  /** @param offset character of the text that stands at the path, when the problem is inside of it */
  problemAt: (path: Path, message: string, offset?: number) => FileProblem;
}

export interface YamlOptions {
  /** Code of the error that is thrown. */
  code: ErrorCode;
  /** What to say of a key that is not known, by its path with `*` for any one part: `tiers.*.limits`. */
  remarks?: Readonly<Record<string, string>>;
  /** True: the file has no data of others in it. A key `__proto__` is refused then: records of names would drop it in silence. */
  ownKeysOnly?: boolean;
}

/** @throws HoldpointError with one line per problem, `file:line:column: message`; its `details.problems` are {@link FileProblem}s */
export function readYaml<S extends z.ZodType>(
  text: string,
  file: string,
  schema: S,
  { code, remarks = {}, ownKeysOnly = false }: YamlOptions,
): ParsedFile<z.output<S>> {
  const lines = new LineCounter();
  const list = parsedDocuments(text, file, lines, code);
  const at = (offset: number): { line: number; column: number } => {
    const { line, col } = lines.linePos(offset);
    return { line: Math.max(1, line), column: Math.max(1, col) };
  };
  const fail = (problems: FileProblem[]): never => {
    throw problemsError(code, problems);
  };
  const [document, second] = list;
  if (second) fail([{ file, ...at(second.range[0]), path: '', message: 'one document is expected, here begins another' }]);
  const syntax = [...(document?.errors ?? []), ...(document?.warnings ?? [])].map(
    (error): FileProblem => ({ file, ...at(error.pos[0]), path: '', message: firstLine(error.message) }),
  );
  if (syntax.length > 0) fail(syntax);
  const place: Place = (path, onKey = false) => at(offsetOf(document, path, onKey));
  const alias = document && aliasOffset(document);
  if (alias !== undefined) fail([{ file, ...at(alias), path: '', message: 'anchors and aliases are not taken: write the value out' }]);
  const odd = ownKeysOnly && document ? protoOffset(document) : undefined;
  if (odd !== undefined) fail([{ file, ...at(odd), path: '__proto__', message: 'unknown key: nothing can have this name' }]);
  const parsed = schema.safeParse(document?.toJS() ?? {});
  if (parsed.success) {
    const inside = (path: Path, offset: number): { line: number; column: number } =>
      at(offsetOf(document, path, false) + offsetInSource(document, path, offset, text));
    return {
      value: parsed.data,
      problemAt: (path, message, offset) => ({ file, ...(offset === undefined ? place(path) : inside(path, offset)), path: path.join('.'), message }),
    };
  }
  return fail(parsed.error.issues.flatMap((issue) => problemsOf(issue, file, place, schema, remarks)));
}

function parsedDocuments(text: string, file: string, lineCounter: LineCounter, code: ErrorCode): Document.Parsed[] {
  if (Buffer.byteLength(text) > LIMITS.runFile)
    throw new HoldpointError(code, `${file} has ${Buffer.byteLength(text)} bytes; at most ${LIMITS.runFile} are taken`);
  try {
    const documents = parseAllDocuments(text, { lineCounter, uniqueKeys: true });
    return Array.isArray(documents) ? documents : [];
  } catch (error) {
    // Nesting beyond the parser's stack.
    throw new HoldpointError(code, `${file} cannot be read: ${messageOf(error)}`, { cause: error });
  }
}

export function problemsError(code: ErrorCode, found: readonly FileProblem[]): HoldpointError {
  const problems = found.toSorted((a, b) => a.line - b.line || a.column - b.column);
  return new HoldpointError(code, problems.map(formatProblem).join('\n'), { details: { problems } });
}

export function formatProblem({ file, line, column, path, message }: FileProblem): string {
  return `${file}:${line}:${column}: ${path === '' ? '' : `${path}: `}${message}`;
}

const firstLine = (message: string): string => message.split('\n')[0]?.replace(/ at line \d+, column \d+:?$/, '') ?? message;

function aliasOffset(document: Document.Parsed): number | undefined {
  let offset: number | undefined;
  visit(document, (_key, node) => {
    if (!isAlias(node)) return undefined;
    offset = node.range?.[0] ?? 0;
    return visit.BREAK;
  });
  return offset;
}

function protoOffset(document: Document.Parsed): number | undefined {
  let offset: number | undefined;
  visit(document, {
    Pair(_key, { key }) {
      if (!isScalar(key) || key.value !== '__proto__') return undefined;
      offset = key.range?.[0] ?? 0;
      return visit.BREAK;
    },
  });
  return offset;
}

/** Offset of the value at a path, or of the nearest part around it that is there. */
function offsetOf(document: Document.Parsed | undefined, path: Path, onKey: boolean): number {
  for (let length = path.length; length >= 0; length--) {
    const part = path.slice(0, length);
    const key = onKey && length === path.length ? keyOffset(document, part) : undefined;
    if (key !== undefined) return key;
    const node = length === 0 ? document?.contents : document?.getIn(part, true);
    if (isNode(node) && node.range) return node.range[0];
  }
  return 0;
}

/** Characters from the start of a scalar to the one that became `offset` of its text; 0 where it is written otherwise than it reads. */
function offsetInSource(document: Document.Parsed | undefined, path: Path, offset: number, source: string): number {
  const node = document?.getIn(path, true);
  if (!isScalar(node) || typeof node.value !== 'string' || !node.range) return 0;
  const [start, end] = node.range;
  const line = node.value.slice(0, offset).split('\n').length - 1;
  const written = source.slice(start, end).split('\n');
  // A block scalar begins with its own line: `|`.
  const first = node.type === 'BLOCK_LITERAL' ? 1 : 0;
  const text = node.value.split('\n')[line] ?? '';
  const indent = written[line + first]?.indexOf(text) ?? -1;
  if (indent < 0 || (first === 0 && line > 0)) return 0;
  const before = written.slice(0, line + first).reduce((sum, one) => sum + one.length + 1, 0);
  return before + indent + offset - (node.value.lastIndexOf('\n', offset - 1) + 1);
}

function keyOffset(document: Document.Parsed | undefined, path: Path): number | undefined {
  const parent = path.length === 1 ? document?.contents : document?.getIn(path.slice(0, -1), true);
  if (!isMap(parent)) return undefined;
  const pair = parent.items.find((item) => isScalar(item.key) && item.key.value === path.at(-1));
  return isScalar(pair?.key) ? pair.key.range?.[0] : undefined;
}

const MISSING = /^Invalid input: expected (.+), received undefined$/;

function problemsOf(issue: z.core.$ZodIssue, file: string, place: Place, schema: z.ZodType, remarks: Readonly<Record<string, string>>): FileProblem[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.map((key) => {
      const path = [...issue.path, key];
      const message = remarkOn(path, remarks) ?? `unknown key${suggestion(key, schema, issue.path)}`;
      return { file, ...place(path, true), path: path.join('.'), message };
    });
  }
  const inner = issue.code === 'invalid_union' ? issue.errors.flat() : [];
  const message = inner.length > 0 ? [...new Set(inner.map((one) => one.message))].join(', or ') : issue.message.replace(MISSING, 'is missing: expected $1');
  return [{ file, ...place(issue.path), path: issue.path.join('.'), message }];
}

function remarkOn(path: Path, remarks: Readonly<Record<string, string>>): string | undefined {
  const fits = (pattern: readonly string[]): boolean =>
    pattern.length === path.length && pattern.every((part, at) => part === '*' || part === String(path[at]));
  return Object.entries(remarks).find(([pattern]) => fits(pattern.split('.')))?.[1];
}

/** No name of ours is longer: a longer key is not compared with them. */
const LONGEST_NAME = 64;

function suggestion(key: string, schema: z.ZodType, path: Path): string {
  const known = keysAt(schema, path);
  const longer = key.length >= 3 ? known.find((name) => name.startsWith(key)) : undefined;
  if (longer !== undefined) return `; did you mean ${longer}?`;
  const [nearest] = (key.length > LONGEST_NAME ? [] : known).map((name) => ({ name, distance: distance(key, name) })).sort((a, b) => a.distance - b.distance);
  if (nearest && nearest.distance <= Math.max(2, key.length / 3)) return `; did you mean ${nearest.name}?`;
  return known.length > 0 ? `; known here: ${known.join(', ')}` : '';
}

/** Keys that a schema knows at a path; none when the path leaves plain objects. */
function keysAt(schema: z.ZodType, path: Path): string[] {
  let at: unknown = schema;
  for (const step of [...path, undefined]) {
    at = unwrapped(at);
    const def = defOf(at);
    const shape = shapeOf(def);
    if (step === undefined) return Object.keys(shape);
    at = typeof step === 'number' ? def?.element : (def?.valueType ?? shape[String(step)]);
  }
  return [];
}

/** Members of an object, or of all the objects that a union may be. */
function shapeOf(def: Def | undefined): Record<string, unknown> {
  if (def?.type === 'object') return def.shape ?? {};
  return Object.assign({}, ...(def?.options ?? []).map((option) => shapeOf(defOf(option))));
}

interface Def {
  type?: string;
  shape?: Record<string, unknown>;
  element?: unknown;
  /** Of a record. */
  valueType?: unknown;
  options?: readonly unknown[];
  innerType?: unknown;
}

function defOf(schema: unknown): Def | undefined {
  return typeof schema === 'object' && schema !== null && 'def' in schema ? (schema.def as Def) : undefined;
}

function unwrapped(schema: unknown): unknown {
  let at = schema;
  while (defOf(at)?.innerType !== undefined) at = defOf(at)?.innerType;
  return at;
}

/** Edit distance of two short words. */
function distance(a: string, b: string): number {
  let previous = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const current = [i];
    for (let j = 1; j <= b.length; j++) {
      const substitution = (previous[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1);
      current.push(Math.min((previous[j] ?? 0) + 1, (current[j - 1] ?? 0) + 1, substitution));
    }
    previous = current;
  }
  return previous[b.length] ?? 0;
}
