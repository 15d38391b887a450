/** How the command line writes: data on stdout, messages on stderr, colour only for a person who wants it. */
import { visible } from './visible.ts';

type Style = 'bold' | 'dim' | 'red' | 'green' | 'yellow' | 'cyan';
const CODES: Record<Style, [number, number]> = { bold: [1, 22], dim: [2, 22], red: [31, 39], green: [32, 39], yellow: [33, 39], cyan: [36, 39] };

/** Colour for a stream that is a terminal, unless NO_COLOR says otherwise. */
export function styled(style: Style, text: string, stream: NodeJS.WriteStream = process.stdout): string {
  if (stream.isTTY !== true || process.env.NO_COLOR || process.env.TERM === 'dumb') return text;
  const [on, off] = CODES[style];
  return `\u001b[${on}m${text}\u001b[${off}m`;
}

/** A line of data. */
export function print(line = ''): void {
  process.stdout.write(`${line}\n`);
}

/** A message for the person in front of it. */
export function tell(line = ''): void {
  process.stderr.write(`${line}\n`);
}

/** One JSON document on one line. */
export function printJson(value: unknown): void {
  print(JSON.stringify(value));
}

export interface Column<T> {
  title: string;
  value: (row: T) => string;
  style?: (row: T) => Style | undefined;
  /** Longer text is cut and ends in `…`. */
  max?: number;
}

/** Least room for the last column beside the others. */
const LAST_COLUMN = 24;

/**
 * Prints aligned columns; the last one is not padded. Hidden characters are made visible. On a terminal the last column is cut
 * to the line; where the terminal is too narrow for that, columns move to a second, indented line.
 */
export function printTable<T>(rows: readonly T[], columns: readonly Column<T>[]): void {
  const cells = rows.map((row) => columns.map((column) => cut(visible(column.value(row)), column.max ?? 80)));
  const widths = columns.map((column, index) => Math.max(width(column.title), ...cells.map((line) => width(line[index] ?? ''))));
  const room = process.stdout.isTTY === true ? (process.stdout.columns ?? 80) : Number.POSITIVE_INFINITY;
  const beside = columnsBeside(widths, room);
  const indexes = columns.map((_, index) => index);
  const used = indexes.slice(0, -1).reduce((sum, index) => sum + (widths[index] ?? 0) + 2, 0);
  const pad = (text: string, index: number): string => {
    if (index === columns.length - 1) return cut(text, Math.max(LAST_COLUMN, room - used));
    return index === beside - 1 ? text : text + ' '.repeat(Math.max(0, (widths[index] ?? 0) - width(text)));
  };
  print(
    columns
      .slice(0, beside)
      .map((column, index) => styled('dim', pad(column.title, index)))
      .join('  '),
  );
  rows.forEach((row, line) => {
    const text = indexes.slice(0, beside).map((index) => {
      const padded = pad(cells[line]?.[index] ?? '', index);
      const style = columns[index]?.style?.(row);
      return style === undefined ? padded : styled(style, padded);
    });
    print(text.join('  ').trimEnd());
    const below = cells[line]?.slice(beside).filter((cell) => cell !== '') ?? [];
    if (below.length > 0) print(`  ${cut(below.join('  '), room - 2)}`);
  });
}

/** How many columns stand on the first line: all when the last keeps enough room, else as many as fit. */
function columnsBeside(widths: readonly number[], room: number): number {
  const ends = widths.map((_, index) => widths.slice(0, index + 1).reduce((sum, columnWidth) => sum + columnWidth + 2, -2));
  const last = widths.at(-1) ?? 0;
  if ((ends.at(-1) ?? 0) - last + Math.min(last, LAST_COLUMN) <= room) return widths.length;
  return Math.max(1, ends.slice(0, -1).filter((end) => end <= room).length);
}

/** `1 call`, `2 calls`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? '' : 's'}`;
}

/** Prints `name  value` lines, values aligned; undefined ones are left out. */
export function printFields(fields: readonly (readonly [string, string | undefined])[], write: (line: string) => void = print): void {
  const shown = fields.filter((field): field is readonly [string, string] => field[1] !== undefined);
  const widest = Math.max(...shown.map(([name]) => name.length));
  for (const [name, value] of shown) write(`${styled('dim', name.padEnd(widest))}  ${value}`);
}

function cut(text: string, max: number): string {
  const characters = [...text];
  return characters.length <= max ? text : `${characters.slice(0, max - 1).join('')}…`;
}

/** Columns in a terminal: wide characters (CJK, emoji) take two. */
function width(text: string): number {
  let columns = 0;
  for (const character of text)
    columns += /[\u1100-\u115F\u2E80-\uA4CF\uAC00-\uD7A3\uF900-\uFAFF\uFE30-\uFE6F\uFF00-\uFF60\uFFE0-\uFFE6\u{1F300}-\u{1FAFF}\u{20000}-\u{3FFFD}]/u.test(
      character,
    )
      ? 2
      : /\p{M}/u.test(character)
        ? 0
        : 1;
  return columns;
}

/** `4 min 12 s`, `3 h 5 min`, `12 d`: the two largest units. */
export function duration(milliseconds: number): string {
  const seconds = Math.max(0, Math.round(milliseconds / 1000));
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return two(Math.floor(seconds / 60), 'min', seconds % 60, 's');
  if (seconds < 86_400) return two(Math.floor(seconds / 3600), 'h', Math.floor((seconds % 3600) / 60), 'min');
  return two(Math.floor(seconds / 86_400), 'd', Math.floor((seconds % 86_400) / 3600), 'h');
}

function two(large: number, largeUnit: string, small: number, smallUnit: string): string {
  return small === 0 ? `${large} ${largeUnit}` : `${large} ${largeUnit} ${small} ${smallUnit}`;
}

/** `3 min ago`, `in 4 min 12 s`. */
export function relative(iso: string, now: number = Date.now()): string {
  const difference = Date.parse(iso) - now;
  if (Number.isNaN(difference)) return iso;
  if (Math.abs(difference) < 1_000) return 'now';
  return difference < 0 ? `${duration(-difference)} ago` : `in ${duration(difference)}`;
}

/** Progress for as long as something takes: one living line on a terminal, a line each otherwise. */
export interface Progress {
  report: (message: string) => void;
  done: () => void;
}

const FRAMES = ['⠋', '⠙', '⠹', '⠸', '⠼', '⠴', '⠦', '⠧', '⠇', '⠏'];

export function startProgress(stream: NodeJS.WriteStream = process.stderr): Progress {
  if (stream.isTTY !== true || process.env.TERM === 'dumb') return { report: (message) => void stream.write(`${message}\n`), done: () => {} };
  let message = '';
  let frame = 0;
  const draw = (): void => {
    const room = Math.max(10, (stream.columns ?? 80) - 3);
    if (message !== '') stream.write(`\r\u001b[K${styled('cyan', FRAMES[frame++ % FRAMES.length] ?? '', stream)} ${cut(message.split('\n')[0] ?? '', room)}`);
  };
  let timer: NodeJS.Timeout | undefined = setInterval(draw, 100);
  timer.unref();
  return {
    report: (text) => {
      if (timer === undefined) return void stream.write(`${text}\n`);
      message = text;
      draw();
    },
    done: () => {
      clearInterval(timer);
      timer = undefined;
      if (message !== '') stream.write('\r\u001b[K');
    },
  };
}
