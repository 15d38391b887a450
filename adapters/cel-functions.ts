/**
 * The functions of conditions. Those of the library are kept where they are right and bounded; the rest stands here: string
 * conversions that fail instead of giving NaN, times that are the same in every process, keys that hold null, one meter for all.
 */
import {
  celError,
  celFunc,
  type CelFunc,
  type CelInput,
  celList,
  celMethod,
  CelScalar,
  type CelValue,
  celUint,
  isCelError,
  isCelList,
  isCelMap,
  listType,
  mapType,
  objectType,
} from '@bufbuild/cel';
import { strings } from '@bufbuild/cel/ext';
import { timestampDate, timestampFromMs, TimestampSchema } from '@bufbuild/protobuf/wkt';
import { RE2JS } from '@bufbuild/re2';

/** Work that one condition may do; twenty milliseconds as a rule, sixty when each step of it fails. */
const BUDGET = 100_000;
/** For each character: a pattern walks its text, and may hold many states while it does. */
const MATCH_COST = 4;
/** For each element that a macro walks over. */
const STEP_COST = 4;
/** Reading a zone's clock; making the reader takes longest. */
const ZONE_COST = 200;
/** Characters that cost as much as one element. */
const CHARACTERS = 16;

/** Made once: a macro goes on over errors, and a stack trace for each of its elements would be the longest part. */
const TOO_MUCH = celError('too much work');

/** Evaluation is synchronous, so one meter serves all conditions, one after the other. */
export interface Meter {
  spent: number;
  /** Values in the call's facts: what comparing two parts of them may cost at most. */
  nodes: number;
  exhausted: boolean;
}

const { BOOL, DOUBLE, DYN, INT, STRING, UINT } = CelScalar;
const LIST = listType(DYN);
const MAP = mapType(DYN, DYN);
const TIMESTAMP = objectType(TimestampSchema);

export interface ConditionFunctions {
  readonly meter: Meter;
  /** Additions to the library's own, and replacements: one with the same signature wins. */
  extend(standard: Iterable<CelFunc>): CelFunc[];
  /** @throws when the pattern is not RE2 */
  compilePattern(pattern: string): RE2JS;
}

export function conditionFunctions(): ConditionFunctions {
  const meter: Meter = { spent: 0, nodes: 0, exhausted: false };
  const charge = (cost: number): void => {
    meter.spent += cost;
    if (meter.spent <= BUDGET) return;
    meter.exhausted = true;
    throw TOO_MUCH;
  };
  const patterns = new Map<string, RE2JS>();
  const compilePattern = (pattern: string): RE2JS => {
    const compiled = patterns.get(pattern) ?? RE2JS.compile(pattern);
    patterns.set(pattern, compiled);
    return compiled;
  };
  const matches = celMethod('matches', STRING, [STRING], BOOL, function (pattern) {
    charge(1 + this.length * MATCH_COST);
    return compilePattern(pattern).test(this);
  });
  const extend = (standard: Iterable<CelFunc>): CelFunc[] => [
    ...[...standard, ...harmless(strings)].filter(isCostly).map((func) => metered(func, meter, charge)),
    ...harmless(strings).filter((func) => !isCostly(func)),
    ...CONVERSIONS,
    ...timesOf(charge),
    matches,
    celFunc('_+_', [LIST, LIST], LIST, (left, right) => {
      charge(1 + (left.size + right.size) / 4);
      // The library's chains of lists take longer with every element: this one is flat.
      return celList([...left, ...right]);
    }),
    celFunc('sum', [LIST], DOUBLE, (list) => {
      charge(1 + list.size);
      return [...list].reduce((sum: number, value) => sum + numberIn(value), 0);
    }),
    celFunc('@in', [STRING, MAP], BOOL, (key, map) => map.get(key) !== undefined),
    celFunc(HAS, [MAP, STRING], BOOL, (map, key) => map.get(key) !== undefined),
    celFunc(RANGE, [DYN], DYN, (range) => {
      charge(1 + (isCelList(range) || isCelMap(range) ? range.size * STEP_COST : 0));
      return range;
    }),
  ];
  return { meter, extend, compilePattern };
}

function numberIn(value: CelValue): number {
  if (typeof value === 'number') return value;
  if (typeof value === 'bigint') return Number(value);
  throw new Error('type mismatch: sum takes a list of numbers');
}

/** Stands for the macro `has`: the library's says that a key whose value is null is not there. */
export const HAS = '@has';
/** Around what a macro iterates over: pays for every element before the first is looked at. */
export const RANGE = '@range';

/** What grows its input is left out. */
function harmless(functions: readonly CelFunc[]): CelFunc[] {
  return functions.filter(({ name }) => !['replace', 'join', 'format', 'strings.quote'].includes(name));
}

const DEEP = ['_==_', '_!=_', '@in'];

function isCostly(func: CelFunc): boolean {
  return DEEP.includes(func.name) || [func.target, ...func.arguments].some((type) => type === STRING || type === CelScalar.BYTES);
}

/** The same function, paid for by the size of what it is given. */
function metered(func: CelFunc, meter: Meter, charge: (cost: number) => void): CelFunc {
  const deep = DEEP.includes(func.name);
  const run = (target: CelValue | undefined, args: CelValue[]): CelInput => {
    const given = target === undefined ? args : [target, ...args];
    charge(given.reduce((sum: number, value) => sum + lengthOf(value) / CHARACTERS, 1) + (deep ? comparing(given, meter.nodes) : 0));
    const result = func.call(0, target, args);
    if (result === undefined || isCelError(result)) throw result ?? new Error('no overload');
    return result;
  };
  const { name, target, arguments: types, result } = func;
  if (target === undefined) return celFunc(name, types, result, (...args: CelValue[]) => run(undefined, args));
  return celMethod(name, target, types, result, function (...args: CelValue[]) {
    return run(this, args);
  });
}

const lengthOf = (value: CelValue): number => (typeof value === 'string' || value instanceof Uint8Array ? value.length : 0);

/** Two lists or maps are compared to the bottom; something else in a list is compared with each of its elements. */
function comparing(given: readonly CelValue[], nodes: number): number {
  const sizes = given.flatMap((value) => (isCelList(value) || isCelMap(value) ? [value.size] : []));
  return sizes.reduce((sum, size) => sum + size, 0) + (sizes.length > 1 ? nodes : 0);
}

function decimal(text: string, form: RegExp, what: string): string {
  if (!form.test(text)) throw new Error(`the text is no ${what}`);
  return text;
}

const WHOLE = /^[+-]?\d{1,19}$/;
const NUMBER = /^[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?$/;

/** The library reads "" as 0, "0x10" as 16 and "abc" as NaN, which is below and above nothing. */
const CONVERSIONS: CelFunc[] = [
  celFunc('int', [STRING], INT, (text) => inRange(BigInt(decimal(text, WHOLE, 'whole number').replace('+', '')), -(2n ** 63n), 2n ** 63n - 1n)),
  celFunc('uint', [STRING], UINT, (text) => celUint(inRange(BigInt(decimal(text, WHOLE, 'whole number').replace('+', '')), 0n, 2n ** 64n - 1n))),
  celFunc('double', [STRING], DOUBLE, (text) => Number(decimal(text, NUMBER, 'number'))),
  celFunc('timestamp', [INT], TIMESTAMP, (seconds) => timestampFromMs(Number(inRange(seconds, -62_135_596_800n, 253_402_300_799n)) * 1000)),
];

function inRange(value: bigint, least: bigint, most: bigint): bigint {
  if (value < least || value > most) throw new Error('the number is out of range');
  return value;
}

/** The library counts in the process's own time zone, where an hour is missing once a year: two processes may disagree. */
const TIME_PARTS: readonly [string, (date: Date) => number][] = [
  ['getFullYear', (date) => date.getUTCFullYear()],
  ['getMonth', (date) => date.getUTCMonth()],
  ['getDate', (date) => date.getUTCDate()],
  ['getDayOfMonth', (date) => date.getUTCDate() - 1],
  ['getDayOfWeek', (date) => date.getUTCDay()],
  ['getDayOfYear', (date) => Math.floor((date.getTime() - Date.UTC(date.getUTCFullYear(), 0, 1)) / 86_400_000)],
  ['getHours', (date) => date.getUTCHours()],
  ['getMinutes', (date) => date.getUTCMinutes()],
  ['getSeconds', (date) => date.getUTCSeconds()],
  ['getMilliseconds', (date) => date.getUTCMilliseconds()],
];

function timesOf(charge: (cost: number) => void): CelFunc[] {
  return TIME_PARTS.flatMap(([name, part]) => [
    celMethod(name, TIMESTAMP, [], INT, function () {
      return BigInt(part(timestampDate(this.message)));
    }),
    celMethod(name, TIMESTAMP, [STRING], INT, function (zone) {
      charge(ZONE_COST);
      return BigInt(part(wallClock(timestampDate(this.message), zone)));
    }),
  ]);
}

/** A date whose UTC parts are what clocks in the zone show: `+02:00`, `Europe/Berlin`. @throws for a zone that nobody knows */
function wallClock(at: Date, zone: string): Date {
  const fixed = /^([+-]?)(\d\d):(\d\d)$/.exec(zone);
  if (fixed) return new Date(at.getTime() + (fixed[1] === '-' ? -1 : 1) * (Number(fixed[2]) * 60 + Number(fixed[3])) * 60_000);
  const parts = new Map(
    zoneFormat(zone)
      .formatToParts(at)
      .map(({ type, value }) => [type, Number(value)]),
  );
  const part = (name: Intl.DateTimeFormatPartTypes): number => parts.get(name) ?? 0;
  return new Date(Date.UTC(part('year'), part('month') - 1, part('day'), part('hour'), part('minute'), part('second'), at.getUTCMilliseconds()));
}

const zones = new Map<string, Intl.DateTimeFormat>();

/** Making one takes longer than all else in a condition. Few are kept: a name may come from arguments. */
function zoneFormat(zone: string): Intl.DateTimeFormat {
  const known = zones.get(zone);
  if (known) return known;
  const numeric = 'numeric';
  const format = new Intl.DateTimeFormat('en-US', {
    timeZone: zone,
    hourCycle: 'h23',
    year: numeric,
    month: numeric,
    day: numeric,
    hour: numeric,
    minute: numeric,
    second: numeric,
  });
  if (zones.size < 100) zones.set(zone, format);
  return format;
}
