/** What can be said of a condition before any call: unknown names, no boolean, patterns that are none, loops in loops in loops. */
import { CelScalar, type celEnv, type parse } from '@bufbuild/cel';
import { messageOf } from '../core/errors.ts';
import { HAS, RANGE } from './cel-functions.ts';

export interface ConditionFault {
  /** Character of the condition, from 0. */
  readonly offset: number;
  readonly message: string;
}

type Parsed = ReturnType<typeof parse>;
type Expr = Parsed['expr'];
type Functions = ReturnType<typeof celEnv>['funcs'];

/** Variables of a condition, with the fields of those that have a fixed shape. */
const VARIABLES: Readonly<Record<string, readonly string[] | undefined>> = {
  args: undefined,
  tool: ['name', 'kind', 'idempotent'],
  agent: ['name', 'roles'],
  owner: ['name', 'roles'],
  requester: undefined,
  run: ['run_id', 'goal', 'steps', 'tool_calls', 'active_seconds', 'usd'],
  now: undefined,
};
const TYPES = ['int', 'uint', 'double', 'bool', 'string', 'bytes', 'list', 'map', 'null_type', 'type'];
/** What the planner itself makes of a call. */
const OPERATORS = ['_[_]', '_?_:_', '_&&_', '_||_', '@not_strictly_false'];

const MAX_BRACKETS = 32;
const MAX_DEPTH = 300;
/** Macros inside each other's bodies. */
const MAX_LOOPS = 3;
const MAX_PATTERN = 200;

/** Refuses before the parser is asked: it goes back and forth, the more so the deeper brackets stand in each other. */
export function guarded(when: string): ConditionFault | undefined {
  let depth = 0;
  for (let offset = 0; offset < when.length; offset++) {
    if ('([{'.includes(when.charAt(offset))) depth++;
    if (')]}'.includes(when.charAt(offset))) depth--;
    if (depth > MAX_BRACKETS) return { offset, message: `brackets stand more than ${MAX_BRACKETS} deep` };
  }
  return undefined;
}

interface Walk {
  readonly faults: ConditionFault[];
  readonly functions: Functions;
  readonly compilePattern: (pattern: string) => unknown;
  readonly place: (expr: Expr) => number;
}

/** Finds faults, and puts the meter and our `has` into the expression, which is changed in place. */
export function faultsOf(parsed: Parsed, functions: Functions, compilePattern: Walk['compilePattern']): ConditionFault[] {
  const place = (expr: Expr): number => parsed.sourceInfo?.positions[expr.id.toString()] ?? 0;
  const walk: Walk = { faults: [], functions, compilePattern, place };
  const { expr } = parsed;
  if (!mayBeBoolean(expr, functions)) fault(walk, expr, 'it gives something else than true or false');
  visit(walk, expr, { names: [], loops: 0, depth: 0 });
  return walk.faults.toSorted((a, b) => a.offset - b.offset);
}

const fault = ({ faults, place }: Walk, expr: Expr, message: string): number => faults.push({ offset: place(expr), message });

interface Scope {
  /** Variables of the macros around. */
  readonly names: readonly string[];
  readonly loops: number;
  readonly depth: number;
}

function visit(walk: Walk, expr: Expr | undefined, outer: Scope): void {
  if (!expr) return;
  const scope = { ...outer, depth: outer.depth + 1 };
  if (scope.depth > MAX_DEPTH) throw new Error('it is nested too deep');
  const kind = expr.exprKind;
  switch (kind.case) {
    case 'identExpr':
      return checkName(walk, expr, kind.value.name, scope);
    case 'selectExpr':
      checkField(walk, expr, kind.value, scope);
      visit(walk, kind.value.operand, scope);
      if (kind.value.testOnly) Object.assign(expr, { exprKind: callOf(HAS, [kind.value.operand, textOf(expr, kind.value.field)]) });
      return;
    case 'callExpr':
      checkCall(walk, expr, kind.value);
      for (const part of [kind.value.target, ...kind.value.args]) visit(walk, part, scope);
      return;
    case 'listExpr':
      for (const element of kind.value.elements) visit(walk, element, scope);
      return;
    case 'structExpr':
      if (kind.value.messageName !== '') fault(walk, expr, `there is no type ${kind.value.messageName}`);
      for (const entry of kind.value.entries) {
        if (entry.keyKind.case === 'mapKey') visit(walk, entry.keyKind.value, scope);
        visit(walk, entry.value, scope);
      }
      return;
    case 'comprehensionExpr':
      return visitLoop(walk, expr, kind.value, scope);
    case 'constExpr':
    case undefined:
      return;
    default:
      return void fault(walk, expr, 'this form is not known');
  }
}

type KindOf<C extends string> = Extract<Expr['exprKind'], { case: C }>['value'];

function visitLoop(walk: Walk, expr: Expr, loop: KindOf<'comprehensionExpr'>, scope: Scope): void {
  visit(walk, loop.iterRange, scope);
  if (loop.iterRange) Object.assign(loop, { iterRange: { ...loop.iterRange, exprKind: callOf(RANGE, [{ ...loop.iterRange }]) } });
  const inside = { ...scope, names: [...scope.names, loop.iterVar, loop.accuVar], loops: scope.loops + 1 };
  if (inside.loops > MAX_LOOPS) fault(walk, expr, `more than ${MAX_LOOPS} macros stand in each other`);
  for (const part of [loop.accuInit, loop.loopCondition, loop.loopStep, loop.result]) visit(walk, part, inside);
}

function checkName(walk: Walk, expr: Expr, name: string, scope: Scope): void {
  if (scope.names.includes(name) || Object.hasOwn(VARIABLES, name) || TYPES.includes(name)) return;
  fault(walk, expr, `there is no variable ${name}; known: ${Object.keys(VARIABLES).join(', ')}`);
}

function checkField(walk: Walk, expr: Expr, { operand, field }: KindOf<'selectExpr'>, scope: Scope): void {
  const variable = operand?.exprKind.case === 'identExpr' ? operand.exprKind.value.name : undefined;
  if (variable === undefined || scope.names.includes(variable) || !Object.hasOwn(VARIABLES, variable)) return;
  const fields = VARIABLES[variable];
  if (fields && !fields.includes(field)) fault(walk, expr, `${variable} has no field ${field}; known: ${fields.join(', ')}`);
}

function checkCall(walk: Walk, expr: Expr, { function: name, args }: KindOf<'callExpr'>): void {
  if (!OPERATORS.includes(name) && walk.functions.find(name) === undefined) return void fault(walk, expr, `there is no function ${name}`);
  if (name !== 'matches') return;
  const pattern = args[0]?.exprKind.case === 'constExpr' ? args[0].exprKind.value.constantKind : undefined;
  if (pattern?.case !== 'stringValue') return void fault(walk, expr, 'the pattern of matches must be written out as text');
  if (pattern.value.length > MAX_PATTERN) return void fault(walk, expr, `the pattern has more than ${MAX_PATTERN} characters`);
  try {
    walk.compilePattern(pattern.value);
  } catch (error) {
    fault(walk, args[0] ?? expr, messageOf(error));
  }
}

/** No type checker: only what is certain without one is refused. */
function mayBeBoolean({ exprKind }: Expr, functions: Functions): boolean {
  switch (exprKind.case) {
    case 'constExpr':
      return exprKind.value.constantKind.case === 'boolValue';
    case 'listExpr':
    case 'structExpr':
    case 'identExpr':
      return false;
    case 'comprehensionExpr':
      return exprKind.value.accuInit?.exprKind.case !== 'listExpr';
    case 'callExpr': {
      const overloads = functions.find(exprKind.value.function);
      return overloads === undefined || [...overloads].some(({ result }) => result === CelScalar.BOOL || result === CelScalar.DYN);
    }
    default:
      return true;
  }
}

/** A call in the syntax tree, without a place of its own. */
function callOf(name: string, args: readonly (Expr | undefined)[]): Expr['exprKind'] {
  return { case: 'callExpr', value: { $typeName: 'cel.expr.Expr.Call', function: name, args: args.filter((arg) => arg !== undefined) } };
}

function textOf(near: Expr, text: string): Expr {
  return { ...near, exprKind: { case: 'constExpr', value: { $typeName: 'cel.expr.Constant', constantKind: { case: 'stringValue', value: text } } } };
}
