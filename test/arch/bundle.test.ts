/** What every cached run loads: the smaller, the more runs a worker holds. */
import { beforeAll, expect, test } from 'vitest';
import { buildWorkflowBundle } from '../../worker/bundle.ts';

/** Without the source map; measured plus 15 %. The SDK's own part is about 520 KB, unminified. */
const SCRIPT_BYTES = 695_000;
const OUR_BYTES = 97_000;

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

test('the bundle holds the workflow and core/, and neither the parser of the contracts nor an adapter', () => {
  const names = ours().map(({ name }) => name);
  expect(names).toEqual(expect.arrayContaining(['./workflows/agent-run.ts', './workflows/payload-converter.ts', './core/run.ts']));
  expect(names.filter((name) => name.endsWith('.ts') && !/^\.\/(core|workflows)\//.test(name))).toEqual([]);
  expect(names).not.toContain('./core/contracts.ts');
});

test('the bundle holds the packages of the SDK and no other: no zod, no pg, no jose', () => {
  const packages = modules.flatMap(({ name }) => /node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(name)?.[1] ?? []);
  expect([...new Set(packages)].sort()).toEqual(['@temporalio/common', '@temporalio/workflow', 'long', 'ms', 'nexus-rpc']);
});

test('the bundle asks Node for nothing', () => {
  expect(modules.length).toBeGreaterThan(50);
  expect([...script.matchAll(/require\(["'][^)]*\)|from ["']node:/g)].map(([found]) => found)).toEqual([]);
});

test('the bundle is under its budget', () => {
  expect(Buffer.byteLength(script)).toBeLessThan(SCRIPT_BYTES);
  expect(ours().reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThan(OUR_BYTES);
});
