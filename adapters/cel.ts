/** Conditions in CEL: read once when a policy is loaded, evaluated for every call. The only place that knows the language. */
import { type CelInput, celEnv, isCelError, parse, plan } from '@bufbuild/cel';
import { timestampFromDate } from '@bufbuild/protobuf/wkt';
import type { PolicyFile } from '../core/contracts.ts';
import { messageOf } from '../core/errors.ts';
import type { Actor, ConditionAnswer, ConditionProblem, Conditions, PolicyFacts } from '../core/policy-facts.ts';
import { LIMITS } from '../core/words.ts';
import { type ConditionFault, faultsOf, guarded } from './cel-check.ts';
import { conditionFunctions } from './cel-functions.ts';

const functions = conditionFunctions();
const env = celEnv({ funcs: functions.extend(celEnv().funcs) });

type Program = (bindings: Record<string, CelInput>) => ReturnType<ReturnType<typeof plan>>;

/** What is wrong with a condition, empty when nothing is. `offset` counts characters from 0. */
export function conditionFaults(when: string): ConditionFault[] {
  const read = readCondition(when);
  return 'faults' in read ? read.faults : [];
}

/** Values that a condition may be given, and levels of them: more than a tool's arguments may have. */
const MAX_NODES = 50_000;
const MAX_DEPTH = 200;
/** The library's words may quote a text of any length. */
const MAX_DETAIL = 300;

/** The conditions of a policy, parsed and planned. One that cannot be read answers with a problem. */
export function compileConditions(policy: PolicyFile): Conditions {
  const programs = new Map<string, Program>();
  for (const { when } of policy.policy.rules) {
    if (when === undefined || programs.has(when)) continue;
    const read = readCondition(when);
    if ('program' in read) programs.set(when, read.program);
  }
  return (facts) => {
    const given = bindingsOf(facts);
    return (when) => {
      const program = programs.get(when);
      if (!program) return { problem: 'failed', detail: 'the condition is not one of this policy' };
      return 'problem' in given ? given : evaluate(program, given);
    };
  };
}

interface Given {
  readonly bindings: Record<string, CelInput>;
  readonly nodes: number;
}

function evaluate(program: Program, { bindings, nodes }: Given): ConditionAnswer {
  const { meter } = functions;
  Object.assign(meter, { spent: 0, nodes, exhausted: false });
  const result = withoutStackTraces(() => program(bindings));
  if (typeof result === 'boolean') return result;
  if (!isCelError(result)) return { problem: 'not_boolean', detail: 'it gives neither true nor false' };
  return { problem: meter.exhausted ? 'too_large' : problemIn(result.message), detail: result.message.slice(0, MAX_DETAIL) };
}

/** A macro goes on over errors: where each came from would be most of its time, and nobody reads it. */
function withoutStackTraces<T>(work: () => T): T {
  const limit = Error.stackTraceLimit;
  Error.stackTraceLimit = 0;
  try {
    return work();
  } finally {
    Error.stackTraceLimit = limit;
  }
}

/** The library has no codes for its errors; a test pins these words. Whatever is not recognised is a problem all the same. */
function problemIn(message: string): ConditionProblem {
  if (/^(field not found|unresolved attribute|index .* out of bounds)/.test(message)) return 'missing_field';
  if (/^(found no matching overload|type mismatch)/.test(message)) return 'type_mismatch';
  return 'failed';
}

function readCondition(when: string): { program: Program } | { faults: ConditionFault[] } {
  const early = guarded(when);
  if (early) return { faults: [early] };
  try {
    const parsed = parse(when);
    const faults = faultsOf(parsed, env.funcs, functions.compilePattern);
    return faults.length > 0 ? { faults } : { program: plan(env, parsed.expr) };
  } catch (error) {
    return { faults: [syntaxFault(error)] };
  }
}

/** `syntax error: <input>:1:8: found > but expecting …`: the list of what would fit is longer than it helps. */
function syntaxFault(error: unknown): ConditionFault {
  const message = messageOf(error)
    .replace(/^<input>:\d+:\d+: /, '')
    .replace(/ but expecting (?!end of input).*$/s, ' here');
  const location = typeof error === 'object' && error !== null && 'location' in error ? error.location : undefined;
  const start = typeof location === 'object' && location !== null && 'start' in location ? location.start : undefined;
  const offset = typeof start === 'object' && start !== null && 'offset' in start && typeof start.offset === 'number' ? start.offset : 0;
  return { offset, message: `no CEL expression: ${message}` };
}

function bindingsOf(facts: PolicyFacts): Given | Exclude<ConditionAnswer, boolean> {
  const { args, tool, agent, owner, requester, run, now } = facts;
  const size: Size = { nodes: 0, characters: 0 };
  try {
    // Without a prototype: no name is found that is not given here. What is unknown is left out, so that looking at it is an error.
    const bindings = Object.assign(Object.create(null) as Record<string, CelInput>, {
      tool: record({ name: tool.name, kind: tool.kind, idempotent: tool.idempotent }),
      agent: actor(agent),
      owner: owner && actor(owner),
      requester,
      ...(args === undefined ? {} : { args: celValue(args, size, 0) }),
      ...(now === undefined ? {} : { now: timestampFromDate(now) }),
      ...(run === undefined ? {} : { run: record({ ...run, steps: whole(run.steps), tool_calls: whole(run.tool_calls) }) }),
    });
    return { bindings, nodes: size.nodes };
  } catch (error) {
    return { problem: error instanceof RangeError ? 'too_large' : 'failed', detail: messageOf(error) };
  }
}

const actor = ({ name, roles }: Actor): Map<string, CelInput> => record({ name, roles: [...roles] });

const whole = (count: number | undefined): bigint | undefined => (count === undefined ? undefined : BigInt(count));

function record(fields: Readonly<Record<string, CelInput | undefined>>): Map<string, CelInput> {
  return new Map(Object.entries(fields).flatMap(([key, value]) => (value === undefined ? [] : [[key, value]])));
}

interface Size {
  nodes: number;
  characters: number;
}

/** JSON as CEL sees it: every number a double, every object a map, so that `constructor` and `__proto__` are keys like others. */
function celValue(value: unknown, size: Size, depth: number): CelInput {
  if (typeof value === 'string') size.characters += value.length;
  if (++size.nodes > MAX_NODES || depth > MAX_DEPTH || size.characters > LIMITS.args) throw new RangeError('the arguments are too large for a condition');
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value;
  if (typeof value === 'number' && Number.isFinite(value)) return value;
  if (Array.isArray(value)) return value.map((member: unknown) => celValue(member, size, depth + 1));
  if (typeof value !== 'object') throw new TypeError('the arguments are no JSON');
  return new Map(Object.entries(value).map(([key, member]) => [key, celValue(member, size, depth + 1)]));
}
