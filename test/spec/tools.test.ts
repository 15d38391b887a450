import { writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { z } from 'zod';
import { defineTool, type ToolContext } from '../../activities/define.ts';
import { canonical, hashJson } from '../../adapters/hashing.ts';
import { loadPlanners } from '../../adapters/planners.ts';
import { loadTools, registerTools } from '../../adapters/tools.ts';
import { temporaryFolder } from '../support/index.ts';

const ZOD = pathToFileURL(createRequire(import.meta.url).resolve('zod')).href;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeAll(async () => {
  folder = await temporaryFolder();
});
afterAll(() => folder.remove());

let count = 0;
async function moduleOf(text: string, extension = 'mjs'): Promise<string> {
  const path = join(folder.path, `module-${count++}.${extension}`);
  await writeFile(path, text.replaceAll("'zod'", `'${ZOD}'`));
  return path;
}

const context: ToolContext = { run_id: 'run_a', call_id: '1.1', idempotency_key: 'key', signal: new AbortController().signal };
const execute = async (): Promise<unknown> => 'done';
const tool = (input: z.ZodType, more: Partial<Parameters<typeof defineTool>[0]> = {}) => {
  const registered = registerTools([{ name: 'a.tool', input, execute, ...more }]).get('a.tool');
  if (!registered) throw new Error('not registered');
  return registered;
};
const problemOf = (input: z.ZodType, args: unknown): string => {
  const answer = tool(input).parse(args);
  return answer.ok ? `accepted ${canonical(answer.value)}` : answer.problem;
};

describe('a tool module', () => {
  test('may be JavaScript or TypeScript, and export tools under any name, in arrays, twice and beside helpers', async () => {
    const text = `
      import { z } from 'zod';
      const one = { name: 'one', kind: 'read', input: z.strictObject({ q: z.string() }), async execute({ q }) { return q; } };
      const two = { name: 'two', input: z.strictObject({}), execute: async () => 2 };
      export default one;
      export const again = one;
      export const more = [two, { name: 'three', input: z.strictObject({}), execute: async () => 3 }];
      export const helper = () => 1;
      export const settings = { name: 'just a name' };
      export const nothing = null;`;
    const typed =
      "import { z } from 'zod';\nexport const typed = { name: 'typed' as const, input: z.strictObject({}), execute: async (): Promise<number> => 4 };\n";
    const tools = await loadTools([await moduleOf(text), await moduleOf(typed, 'ts')]);
    expect(
      tools
        .list()
        .map(({ name }) => name)
        .sort(),
    ).toEqual(['one', 'three', 'two', 'typed']);
    expect(await tools.get('one')?.execute({ q: 'x' }, context)).toBe('x');
  });

  test('of CommonJS works, and so does a zod of its own', async () => {
    const zod = createRequire(import.meta.url).resolve('zod');
    const path = await moduleOf(
      `const { z } = require(${JSON.stringify(zod)}); exports.pay = { name: 'pay', input: z.object({ cents: z.int().positive() }), execute: async () => 1 };`,
      'cjs',
    );
    const pay = (await loadTools([path])).get('pay');
    expect(pay?.parse({ cents: 5 })).toEqual({ ok: true, value: { cents: 5 } });
    expect(pay?.parse({ cents: 5, to: 'me' })).toMatchObject({ ok: false });
    const ours = tool(z.strictObject({ cents: z.int().positive() }), { name: 'a.tool' });
    expect(pay?.tool_hash).toMatch(/^sha256:[0-9a-f]{64}$/);
    expect(pay?.tool_hash).not.toBe(ours.tool_hash);
  });

  test.each([
    ['no execute', "export const broken = { name: 'x', input: z.strictObject({}) };", 'execute is no function'],
    ['no name', 'export const broken = { input: z.strictObject({}), execute: async () => 1 };', 'name undefined is not a tool name'],
    ['a name from the language', "export const broken = { name: '__proto__', input: z.strictObject({}), execute: async () => 1 };", 'is not a tool name'],
    ['no schema', "export const broken = { name: 'x', input: { type: 'object' }, execute: async () => 1 };", 'input is no zod 4 schema'],
    ['a strange kind', "export const broken = { name: 'x', kind: 'Read', input: z.strictObject({}), execute: async () => 1 };", 'kind must be read or write'],
    [
      'idempotent as text',
      "export const broken = { name: 'x', idempotent: 'yes', input: z.strictObject({}), execute: async () => 1 };",
      'idempotent must be true or false',
    ],
    [
      'a tier that is no name',
      "export const broken = { name: 'x', tier: 'very high', input: z.strictObject({}), execute: async () => 1 };",
      'tier "very high" is not',
    ],
    [
      'a preview that is text',
      "export const broken = { name: 'x', preview: 'x', input: z.strictObject({}), execute: async () => 1 };",
      'preview is no function',
    ],
    [
      'endless time',
      "export const broken = { name: 'x', timeout_seconds: Infinity, input: z.strictObject({}), execute: async () => 1 };",
      'timeout_seconds must be',
    ],
  ])('with a tool that has %s is refused, naming file and export', async (_name, text, problem) => {
    const path = await moduleOf(`import { z } from 'zod';\n${text}`);
    await expect(loadTools([path])).rejects.toMatchObject({ code: 'invalid_config', message: expect.stringContaining(`${path}: export broken is no tool: `) });
    await expect(loadTools([path])).rejects.toThrow(problem);
  });

  test.each([
    ['exports no tool', 'export const x = 1;', 'exports no tool'],
    ['throws', "throw new Error('boom');", 'boom'],
    ['cannot be parsed', 'export const = 1;', 'cannot be loaded'],
    ['imports what is not there', "import 'no-such-package-here';", 'no-such-package-here'],
  ])('that %s is refused with its path', async (_name, text, message) => {
    const path = await moduleOf(text);
    await expect(loadTools([path])).rejects.toMatchObject({ code: 'invalid_config', message: expect.stringContaining(path) });
    await expect(loadTools([path])).rejects.toThrow(message);
  });

  test('that is not there is refused with its path', async () => {
    await expect(loadTools([join(folder.path, 'nowhere.ts')])).rejects.toMatchObject({
      code: 'invalid_config',
      message: expect.stringContaining('nowhere.ts'),
    });
  });

  test('with the name of another one is refused', () => {
    const twice = { name: 'a', input: z.strictObject({}), execute };
    expect(() => registerTools([twice, { ...twice }])).toThrow('two tools have the name a');
  });
});

describe('a registered tool', () => {
  test('is a write that is not idempotent unless it says otherwise', () => {
    expect(tool(z.strictObject({}))).toMatchObject({ kind: 'write', idempotent: false, timeoutMs: 300_000 });
  });

  test('is found by its own name only', () => {
    const tools = registerTools([{ name: 'a.tool', input: z.strictObject({}), execute }]);
    for (const name of ['constructor', '__proto__', 'toString', 'A.tool', 'a.tool ', '']) expect(tools.get(name)).toBeUndefined();
  });

  test('has the hash of what it is: name, kind, idempotence, schema and version', () => {
    const input = z.strictObject({ to: z.string().max(5) });
    const hash = tool(input).tool_hash;
    const schema: unknown = JSON.parse(JSON.stringify(z.toJSONSchema(input, { io: 'input' })));
    expect(hash).toBe(hashJson({ name: 'a.tool', kind: 'write', idempotent: false, input: schema, version: '' }));
    expect(tool(z.strictObject({ to: z.string().max(5) }), { preview: () => 'x', kind: 'write', tier: 'high' }).tool_hash).toBe(hash);
    const others = [
      tool(input, { kind: 'read' }),
      tool(input, { idempotent: true }),
      tool(input, { version: '2' }),
      tool(z.strictObject({ to: z.string().max(6) })),
    ];
    expect(new Set([hash, ...others.map((other) => other.tool_hash)]).size).toBe(5);
  });

  test('whose schema has no JSON Schema is refused at load', () => {
    expect(() => tool(z.strictObject({ when: z.date() }))).toThrow('the input schema of a.tool has no JSON Schema');
  });
});

describe('arguments', () => {
  test('with an unknown key are refused, also when the schema would drop it', () => {
    for (const input of [z.object({ to: z.string() }), z.strictObject({ to: z.string() }), z.object({ to: z.string() }).refine(() => true)]) {
      expect(problemOf(input, { to: 'a', bcc: 'b' })).toContain('bcc');
    }
    expect(problemOf(z.looseObject({ to: z.string() }), { to: 'a', bcc: 'b' })).toBe('accepted {"bcc":"b","to":"a"}');
  });

  test('keep the checks of a schema that was made strict', () => {
    const input = z.object({ a: z.number(), b: z.number() }).refine(({ a, b }) => a < b, 'a must be below b');
    expect(problemOf(input, { a: 2, b: 1 })).toBe('arguments: a must be below b');
  });

  test('that do not fit are refused with the path of each field', () => {
    const input = z.strictObject({ to: z.email(), lines: z.array(z.strictObject({ text: z.string() })) });
    const problem = problemOf(input, { to: 'nobody', lines: [{ text: 'a' }, { text: 1 }] });
    expect(problem).toMatch(/^to: .*; lines\.1\.text: .*expected string/);
  });

  test('get the defaults and transformations of the schema, once', () => {
    expect(tool(z.strictObject({ limit: z.int().default(10), name: z.string().trim() })).parse({ name: ' x ' })).toEqual({
      ok: true,
      value: { limit: 10, name: 'x' },
    });
  });

  test.each([
    ['a lone surrogate', z.strictObject({ a: z.string() }), { a: '\ud800' }, /surrogate/i],
    ['a number beyond 2^53', z.strictObject({ a: z.number() }), { a: 2 ** 60 }, /2\^53/],
    ['no number', z.strictObject({ a: z.any() }), { a: Number.NaN }, /a: NaN/],
    ['a function', z.strictObject({ a: z.any() }), { a: () => 1 }, /a: .*function/],
    ['a big integer', z.strictObject({ a: z.any() }), { a: 1n }, /a: .*bigint/],
    ['a map inside', z.strictObject({ a: z.any() }), { a: { b: new Map() } }, /a\.b: .*Map/],
    ['a date made by the schema', z.strictObject({ a: z.string().transform((text) => new Date(text)) }), { a: '2026-01-01' }, /a: .*Date/],
    ['a hole', z.strictObject({ a: z.array(z.any()) }), { a: [1, undefined] }, /a\.1: .*undefined/],
    ['a ring', z.any(), ring(), /./],
    ['an async check', z.strictObject({ a: z.string().refine(async () => true) }), { a: '' }, /./],
    ['nothing at all', z.strictObject({}), undefined, /expected object/],
  ])('with %s are a problem and never an exception', (_name, input, args, problem) => {
    expect(tool(input).parse(args)).toMatchObject({ ok: false, problem: expect.stringMatching(problem) });
  });

  test('of a nesting that no stack holds are a problem', () => {
    let deep: unknown = 1;
    for (let level = 0; level < 100_000; level++) deep = [deep];
    expect(tool(z.any()).parse(deep)).toMatchObject({ ok: false });
  });

  test('that are accepted are plain JSON, the same when read back', () => {
    const any = tool(z.json());
    fc.assert(
      fc.property(
        fc.anything({ withBigInt: true, withDate: true, withMap: true, withSparseArray: true, withTypedArray: true, withNullPrototype: true }),
        (value) => {
          const answer = any.parse(value);
          if (answer.ok) expect(canonical(JSON.parse(JSON.stringify(answer.value)))).toBe(canonical(answer.value));
          else expect(answer.problem).not.toBe('');
        },
      ),
    );
  });

  test('named __proto__ stay arguments and touch nothing else', () => {
    const answer = tool(z.record(z.string(), z.any())).parse(JSON.parse('{"__proto__":{"admin":true},"constructor":1}'));
    expect(({} as Record<string, unknown>).admin).toBeUndefined();
    if (answer.ok) expect(Object.getPrototypeOf(answer.value)).toBe(Object.prototype);
  });
});

describe('a preview', () => {
  const of = (preview: ((args: never) => string) | undefined, args: unknown = { to: 'a' }) =>
    tool(z.any(), preview ? { preview: preview as (args: unknown) => string } : {}).preview(args);

  test('is name and arguments when the tool has none', () => {
    expect(of(undefined)).toBe('a.tool {"to":"a"}');
  });

  test('is one line that shows what hides: nothing that a terminal, a list or a database would trip over', () => {
    expect(of(() => 'pay\r\n  bob\u202eexe.\u0000\ud800 now')).toBe('pay bob\\u{202e}exe.\\u{0}\\u{d800} now');
  });

  test('is at most 300 characters and says how many there were', () => {
    const line = of(undefined, { body: 'x'.repeat(10_000) });
    expect(line.length).toBeLessThanOrEqual(300);
    expect(line).toMatch(/… \(10\d\d\d characters in all\)$/);
  });

  test('that throws, or answers with something else than text, is still a line', () => {
    expect(
      of(() => {
        throw new Error('no such field');
      }),
    ).toBe('a.tool (its preview failed: no such field)');
    expect(of((() => ({ a: 1 })) as never)).toBe('[object Object]');
    expect(of((() => Symbol('x')) as never)).toBe('Symbol(x)');
    expect(of((() => Object.create(null)) as never)).toContain('its preview failed');
  });
});

describe('planners', () => {
  const input = { goal: '', transcript: [], refusals: [] };

  test('of a script answer one call a step, then the end', async () => {
    const planners = await loadPlanners({});
    const script = {
      type: 'script' as const,
      calls: [
        { tool: 'a', args: { n: 1 } },
        { tool: 'b', args: {}, reason: 'because' },
      ],
    };
    expect(await planners.plan(script, 1, input)).toEqual({ calls: [{ tool: 'a', args: { n: 1 } }] });
    expect(await planners.plan(script, 2, input)).toEqual({ calls: [{ tool: 'b', args: {}, reason: 'because' }] });
    expect(await planners.plan(script, 3, input)).toEqual({ done: true });
  });

  test.each([
    ['a default export', 'export default { async plan({ goal }) { return { done: goal }; } };'],
    ['a named function', 'export async function plan({ goal }) { return { done: goal }; }'],
  ])('of a module with %s get goal and transcript', async (_name, text) => {
    const planners = await loadPlanners({ support: await moduleOf(text) });
    expect(await planners.plan({ type: 'module', name: 'support' }, 1, { ...input, goal: 'help' })).toEqual({ done: 'help' });
  });

  test('that are not configured are refused by name, also those of the language', async () => {
    const planners = await loadPlanners({});
    await expect(planners.plan({ type: 'module', name: 'constructor' }, 1, input)).rejects.toMatchObject({
      code: 'invalid_run',
      message: 'no planner is configured as constructor',
    });
  });

  test('without plan() are refused at load with their path', async () => {
    const path = await moduleOf('export const x = 1;');
    await expect(loadPlanners({ support: path })).rejects.toMatchObject({ code: 'invalid_config', message: `${path} exports no planner` });
  });
});

function ring(): unknown {
  const value: Record<string, unknown> = {};
  value.self = value;
  return value;
}
