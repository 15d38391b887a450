/** Tools: definitions that users write become what the gateway uses. */
import { z } from 'zod';
import type { ToolDefinition } from '../activities/define.ts';
import type { RegisteredTool, Tools } from '../activities/ports.ts';
import { Identifier } from '../core/contracts.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { makeVisible } from '../core/visible.ts';
import { LIMITS } from '../core/words.ts';
import { canonical, hashJson } from './hashing.ts';
import { loadModule } from './modules.ts';

const DEFAULT_TIMEOUT_SECONDS = 300;
const MAX_TIMEOUT_SECONDS = 3_000;
const PREVIEW_CHARACTERS = 300;
/** Levels of arguments. What people are shown is indented: without a limit it would grow with the square of the depth. */
const MAX_DEPTH = 100;

/**
 * Loads tool modules.
 *
 * @param specifiers absolute paths, or `holdpoint:examples`
 * @throws HoldpointError `invalid_config` naming module and export
 */
export async function loadTools(specifiers: readonly string[]): Promise<Tools> {
  const definitions: ToolDefinition[] = [];
  for (const specifier of specifiers) {
    const module = await loadModule(specifier);
    const found = Object.entries(module).flatMap(([name, exported]) =>
      (Array.isArray(exported) ? exported : [exported]).filter(isToolLike).map((tool) => checked(tool, specifier, name)),
    );
    // A module that re-exports a tool under a second name gives the same object twice.
    definitions.push(...new Set(found));
    if (found.length === 0) throw new HoldpointError('invalid_config', `${specifier} exports no tool`, { hint: 'export defineTool({ name, input, execute })' });
  }
  return registerTools(definitions);
}

/** Helpers that a module exports besides are none of ours; half a tool is a mistake that is worth a message. */
function isToolLike(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && ['name', 'input', 'execute'].filter((member) => member in value).length >= 2;
}

function checked(tool: Record<string, unknown>, specifier: string, exported: string): ToolDefinition {
  const problem = problemOf(tool);
  if (problem === undefined) return tool as unknown as ToolDefinition;
  throw new HoldpointError('invalid_config', `${specifier}: export ${exported} is no tool: ${problem}`);
}

function problemOf(tool: Record<string, unknown>): string | undefined {
  if (!Identifier.safeParse(tool.name).success) return `name ${JSON.stringify(tool.name)} is not a tool name`;
  if (typeof tool.execute !== 'function') return 'execute is no function';
  if (typeof tool.input !== 'object' || tool.input === null || !('_zod' in tool.input)) return 'input is no zod 4 schema';
  if (tool.kind !== undefined && tool.kind !== 'read' && tool.kind !== 'write') return `kind must be read or write, not ${JSON.stringify(tool.kind)}`;
  if (tool.idempotent !== undefined && typeof tool.idempotent !== 'boolean') return 'idempotent must be true or false';
  if (tool.tier !== undefined && !Identifier.safeParse(tool.tier).success) return `tier ${JSON.stringify(tool.tier)} is not a tier's name`;
  if (tool.preview !== undefined && typeof tool.preview !== 'function') return 'preview is no function';
  if (tool.version !== undefined && typeof tool.version !== 'string') return 'version must be text';
  const timeout = tool.timeout_seconds;
  if (timeout !== undefined && !(typeof timeout === 'number' && timeout > 0 && timeout <= MAX_TIMEOUT_SECONDS))
    return `timeout_seconds must be above 0 and at most ${MAX_TIMEOUT_SECONDS}`;
  return undefined;
}

/** @throws HoldpointError `invalid_config` when two tools share a name or a schema has no JSON Schema */
export function registerTools(definitions: readonly ToolDefinition[]): Tools {
  const tools = new Map<string, RegisteredTool>();
  for (const definition of definitions) {
    if (tools.has(definition.name)) throw new HoldpointError('invalid_config', `two tools have the name ${definition.name}`);
    tools.set(definition.name, registered(definition));
  }
  return { get: (name) => tools.get(name), list: () => [...tools.values()] };
}

function registered(definition: ToolDefinition): RegisteredTool {
  const { name, kind = 'write', idempotent = false, version = '' } = definition;
  const schema = strict(name, definition.input);
  return {
    name,
    kind,
    idempotent,
    tier: definition.tier,
    tool_hash: hashJson({ name, kind, idempotent, input: jsonSchema(name, schema), version }),
    timeoutMs: (definition.timeout_seconds ?? DEFAULT_TIMEOUT_SECONDS) * 1000,
    parse: (args) => parseArguments(schema, args),
    preview: (args) => previewOf(definition, args),
    execute: (args, context) => definition.execute(args, context),
  };
}

/**
 * An unknown key is refused, not dropped: an agent that says something else than the schema means something else. Only what a
 * zod 4 schema of any copy has is used: the module that defines it may have brought its own zod.
 */
function strict(name: string, schema: z.ZodType): z.ZodType {
  const { def, strict: makeStrict } = schema as z.ZodType & { strict?: () => z.ZodType; def?: { type?: string; catchall?: unknown } };
  if (def?.type !== 'object' || def.catchall !== undefined) return schema;
  if (typeof makeStrict === 'function') return makeStrict.call(schema);
  throw new HoldpointError('invalid_config', `the input schema of ${name} drops unknown keys`, { hint: 'use z.strictObject' });
}

function jsonSchema(name: string, schema: z.ZodType): unknown {
  try {
    return JSON.parse(JSON.stringify(z.toJSONSchema(schema, { io: 'input' })));
  } catch (error) {
    throw new HoldpointError('invalid_config', `the input schema of ${name} has no JSON Schema: ${messageOf(error)}`);
  }
}

/** What comes out is plain JSON: the same when it is hashed, shown, stored and executed. */
function parseArguments(schema: z.ZodType, args: unknown): ReturnType<RegisteredTool['parse']> {
  try {
    const parsed = schema.safeParse(args);
    if (!parsed.success) return { ok: false, problem: parsed.error.issues.map(issueText).join('; ').slice(0, LIMITS.text) };
    const odd = findOddity(parsed.data, []);
    return odd === undefined ? { ok: true, value: JSON.parse(canonical(parsed.data)) as unknown } : { ok: false, problem: odd };
  } catch (error) {
    return { ok: false, problem: messageOf(error).slice(0, LIMITS.text) };
  }
}

const placeOf = (path: readonly PropertyKey[]): string => path.map(String).join('.') || 'arguments';
const issueText = (issue: { path: readonly PropertyKey[]; message: string }): string => `${placeOf(issue.path)}: ${issue.message}`;

/** The first part of a parsed value that would not be the same after a way through JSON: a date, a map, a hole. */
function findOddity(value: unknown, path: readonly PropertyKey[]): string | undefined {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return undefined;
  if (typeof value === 'number') return Number.isFinite(value) ? undefined : `${placeOf(path)}: ${value} is no JSON number`;
  if (path.length > MAX_DEPTH) return `${placeOf(path.slice(0, 3))}: nested deeper than ${MAX_DEPTH} levels`;
  if (typeof value !== 'object') return `${placeOf(path)}: a value of type ${typeof value} has no JSON form`;
  const prototype: unknown = Object.getPrototypeOf(value);
  if (Array.isArray(value))
    return firstOddity(
      Array.from(value, (member: unknown, index) => [index, member]),
      path,
    );
  if (prototype !== null && prototype !== Object.prototype) return `${placeOf(path)}: an instance of ${value.constructor.name} is no plain JSON`;
  // A member that is undefined is one that is absent, as in JSON.
  return firstOddity(
    Object.entries(value).filter(([, member]) => member !== undefined),
    path,
  );
}

function firstOddity(members: readonly (readonly [PropertyKey, unknown])[], path: readonly PropertyKey[]): string | undefined {
  for (const [key, member] of members) {
    const odd = findOddity(member, [...path, key]);
    if (odd !== undefined) return odd;
  }
  return undefined;
}

/** One line, and only what can be seen: it stands in lists, terminals and the database. */
function previewOf(definition: ToolDefinition, args: unknown): string {
  let line: string;
  try {
    line = String(definition.preview?.(args) ?? `${definition.name} ${canonical(args)}`);
  } catch (error) {
    line = `${definition.name} (its preview failed: ${messageOf(error)})`;
  }
  const shown = makeVisible(line.replace(/\s+/g, ' ').trim());
  const characters = [...shown];
  return characters.length <= PREVIEW_CHARACTERS ? shown : `${characters.slice(0, PREVIEW_CHARACTERS - 30).join('')}… (${characters.length} characters in all)`;
}
