/** The lint configuration in force, proved on files that break each rule: what is only configured may be misspelt. */
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { temporaryFolder } from '../support/index.ts';
import { ROOT } from './sources.ts';

const use = (specifier: string): string => `import { x } from '${specifier}';\nexport const y = x;\n`;
const useType = (specifier: string): string => `import type { X } from '${specifier}';\nexport type Y = X;\n`;

/** Path → its text and the rules that must find something in it. */
const FILES: Record<string, { text: string; finds: string[] }> = {
  'core/node.ts': { text: use('node:fs'), finds: ['no-restricted-imports'] },
  'core/parser.ts': { text: use('zod'), finds: ['no-restricted-imports'] },
  'core/outward.ts': { text: useType('../activities/ports.ts'), finds: ['no-restricted-imports'] },
  'core/good.ts': { text: use('./words.ts'), finds: [] },
  'core/contracts.ts': { text: use('zod'), finds: [] },
  'workflows/contracts.ts': { text: use('../core/contracts.ts'), finds: ['no-restricted-imports'] },
  'workflows/node.ts': { text: use('node:crypto'), finds: ['no-restricted-imports'] },
  'workflows/good.ts': { text: useType('../core/contracts.ts') + use('@temporalio/workflow'), finds: [] },
  'activities/adapter.ts': { text: use('../adapters/ledger.ts'), finds: ['no-restricted-imports'] },
  'activities/parser.ts': { text: use('zod'), finds: ['no-restricted-imports'] },
  'activities/good.ts': { text: use('../core/policy.ts'), finds: [] },
  'adapters/temporal.ts': { text: use('@temporalio/client'), finds: ['no-restricted-imports'] },
  'adapters/server.ts': { text: use('../server/app.ts'), finds: ['no-restricted-imports'] },
  'adapters/good.ts': { text: use('pg') + useType('../activities/ports.ts'), finds: [] },
  'client/index.ts': { text: use('node:http'), finds: ['no-restricted-imports'] },
  'client/temporal.ts': { text: use('@temporalio/client'), finds: [] },
  'worker/keys.ts': { text: use('../adapters/keys.ts'), finds: ['no-restricted-imports'] },
  'worker/server.ts': { text: use('../server/app.ts'), finds: ['no-restricted-imports'] },
  'worker/good.ts': { text: use('../activities/index.ts'), finds: [] },
  'server/workflow.ts': { text: use('../workflows/agent-run.ts'), finds: ['no-restricted-imports'] },
  'server/activity.ts': { text: use('../activities/gateway.ts'), finds: ['no-restricted-imports'] },
  'server/good.ts': { text: useType('../activities/ports.ts') + use('../client/temporal.ts'), finds: [] },
  'cli/gateway.ts': { text: use('../activities/gateway.ts'), finds: ['no-restricted-imports'] },
  'cli/worker.ts': { text: use('../worker/index.ts'), finds: ['no-restricted-imports'] },
  'cli/good.ts': { text: use('../client/index.ts'), finds: [] },
  'core/any.ts': { text: 'export const x: any = 1;\n', finds: ['no-explicit-any'] },
  'core/sure.ts': { text: 'export const x = (list: number[]): number => list[0]!;\n', finds: ['no-non-null-assertion'] },
  'core/file.ts': { text: `export const x = [\n${'  1,\n'.repeat(349)}];\n`, finds: ['max-lines'] },
  'core/function.ts': { text: `export function f(x: number): number {\n${'  x += 1;\n'.repeat(61)}  return x;\n}\n`, finds: ['max-lines-per-function'] },
  'core/floating.ts': { text: 'export async function f(): Promise<void> {}\nexport function g(): void {\n  f();\n}\n', finds: ['no-floating-promises'] },
  'core/misused.ts': {
    text: 'export async function f(): Promise<boolean> {\n  return true;\n}\nexport const g = (): number => {\n  if (f()) return 1;\n  return 2;\n};\n',
    finds: ['no-misused-promises'],
  },
};

const folders: { remove: () => Promise<void> }[] = [];
const found = new Map<string, Set<string>>();

beforeAll(async () => {
  const folder = await temporaryFolder('holdpoint-lint-');
  folders.push(folder);
  copyFileSync(join(ROOT, '.oxlintrc.json'), join(folder.path, '.oxlintrc.json'));
  symlinkSync(join(ROOT, 'node_modules'), join(folder.path, 'node_modules'));
  writeFileSync(
    join(folder.path, 'tsconfig.json'),
    JSON.stringify({
      compilerOptions: { strict: true, target: 'es2023', module: 'nodenext', allowImportingTsExtensions: true, noEmit: true },
      include: ['*/**/*.ts'],
      exclude: ['node_modules'],
    }),
  );
  for (const [path, { text }] of Object.entries(FILES)) {
    mkdirSync(join(folder.path, dirname(path)), { recursive: true });
    writeFileSync(join(folder.path, path), text);
  }
  const { stdout, stderr } = spawnSync(process.execPath, [join(ROOT, 'node_modules/oxlint/bin/oxlint'), '--format=json', '.'], {
    cwd: folder.path,
    encoding: 'utf8',
  });
  const report = parse(stdout, stderr);
  for (const { filename, code } of report) {
    const rule = /\(([^)]+)\)/.exec(code)?.[1] ?? code;
    found.set(filename, (found.get(filename) ?? new Set()).add(rule));
  }
});
afterAll(async () => {
  for (const { remove } of folders) await remove();
});

function parse(stdout: string, stderr: string): { filename: string; code: string }[] {
  try {
    return (JSON.parse(stdout) as { diagnostics: { filename: string; code: string }[] }).diagnostics;
  } catch {
    throw new Error(`oxlint gave no report: ${stdout}${stderr}`);
  }
}

test.each(Object.entries(FILES))('in %s the linter finds what it must', (path, { finds }) => {
  const own = new Set(Object.values(FILES).flatMap((file) => file.finds));
  expect([...(found.get(path) ?? [])].filter((rule) => own.has(rule)).sort()).toEqual(finds);
});

test('npm run check runs the compiler, the linter and the formatter', () => {
  const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as { scripts: Record<string, string> };
  const steps = scripts['check']?.split(' && ') ?? [];
  expect(steps).toEqual(
    expect.arrayContaining([expect.stringMatching(/^tsc --noEmit/), expect.stringMatching(/^oxlint/), expect.stringMatching(/^biome check/)]),
  );
});

test('no override loosens a rule for the product, but for the command line, which prints', () => {
  const { overrides } = JSON.parse(readFileSync(join(ROOT, '.oxlintrc.json'), 'utf8')) as { overrides: { files: string[]; rules: Record<string, unknown> }[] };
  const off = overrides.flatMap(({ files, rules }) =>
    Object.entries(rules).flatMap(([rule, level]) => (level === 'off' ? files.map((file) => `${rule} ${file}`) : [])),
  );
  expect(off.filter((entry) => !/ (test|examples|bench|scripts)\/\*\*$/.test(entry))).toEqual(['no-console cli/**']);
});
