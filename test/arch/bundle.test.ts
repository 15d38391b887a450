/** What every cached run loads: the smaller, the more runs a worker holds. */
import { beforeAll, expect, test } from 'vitest';
import { buildWorkflowBundle } from '../../worker/bundle.ts';

/** Without the source map. The SDK's own part is about 520 KB of it, unminified. */
const SCRIPT_BYTES = 700_000;
const OUR_BYTES = 110_000;

let script = '';
let modules: { name: string; bytes: number }[] = [];

beforeAll(async () => {
  const { code } = await buildWorkflowBundle();
  script = code.slice(0, code.lastIndexOf('//# sourceMappingURL='));
  modules = script
    .split('/***/ "')
    .slice(1)
    .map((part) => ({ name: part.slice(0, part.indexOf('"')), bytes: part.length }));
});

const ours = () => modules.filter(({ name }) => !name.includes('node_modules'));

test('the bundle holds the workflow, core/ and the SDK, and neither a parser nor a database nor an adapter', () => {
  const names = ours().map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['./workflows/agent-run.ts', './workflows/payload-converter.ts', './core/run.ts']));
  expect(names.filter((name) => name.endsWith('.ts') && !/^\.\/(core|workflows)\//.test(name))).toEqual([]);
  expect(names).not.toContain('./core/contracts.ts');
  expect(modules.filter(({ name }) => /node_modules\/(zod|pg|pino|jose|yaml|canonicalize|hono|nodemailer)\//.test(name))).toEqual([]);
});

test('the bundle is under its budget', () => {
  expect(Buffer.byteLength(script)).toBeLessThan(SCRIPT_BYTES);
  expect(ours().reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThan(OUR_BYTES);
});
