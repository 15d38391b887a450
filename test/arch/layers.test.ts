/** Imports point one way: core ← workflows, activities, adapters, client ← worker, server, cli. */
import { expect, describe, test } from 'vitest';
import { allSources, FOLDERS, type Folder, type Import, importsOf, sourcesOf } from './sources.ts';

interface Layer {
  /** May be imported at run time: folders end in `/`, the rest are single files or packages (`x` covers `x/y`). */
  values: readonly string[];
  /** May be imported as types besides. */
  types?: readonly string[];
  /** Exceptions for one file. */
  files?: Readonly<Record<string, Omit<Layer, 'files'>>>;
}

const LAYERS: Record<Folder, Layer> = {
  core: { values: ['core/'], files: { 'core/contracts.ts': { values: ['zod'] } } },
  workflows: { values: ['workflows/', 'core/', '@temporalio/workflow', '@temporalio/common'] },
  activities: {
    values: ['activities/', 'core/', '@temporalio/activity', '@temporalio/common'],
    files: { 'activities/define.ts': { values: [], types: ['zod'] } },
  },
  adapters: {
    values: ['adapters/', 'core/', 'activities/define.ts', 'node:', 'zod', 'pg', 'jose', 'yaml', 'canonicalize', 'tsx', 'nodemailer'],
    types: ['activities/ports.ts', 'client/types.ts'],
    files: {
      'adapters/cel.ts': { values: ['@bufbuild/cel', '@bufbuild/protobuf'] },
      'adapters/cel-check.ts': { values: ['@bufbuild/cel'] },
      'adapters/cel-functions.ts': { values: ['@bufbuild/cel', '@bufbuild/protobuf', '@bufbuild/re2'] },
    },
  },
  client: {
    values: ['client/index.ts', 'client/types.ts', 'core/'],
    files: { 'client/temporal.ts': { values: ['@temporalio/client', '@temporalio/common', '@temporalio/envconfig'] } },
  },
  worker: {
    values: [
      'worker/',
      'workflows/',
      'activities/',
      'adapters/',
      'core/',
      'node:',
      'zod',
      'pino',
      '@temporalio/worker',
      '@temporalio/common',
      '@temporalio/envconfig',
    ],
  },
  server: {
    values: ['server/', 'adapters/', 'core/', 'client/temporal.ts', 'node:', 'zod', 'pino', 'hono', '@hono/node-server', 'pg'],
    types: ['activities/ports.ts', 'client/types.ts'],
  },
  cli: {
    values: ['cli/', 'client/index.ts', 'client/types.ts', 'adapters/', 'core/', 'worker/main.ts', 'server/main.ts', 'node:'],
    types: ['activities/ports.ts'],
    files: {
      'cli/main.ts': { values: ['commander'] },
      'cli/commands/doctor.ts': { values: ['@temporalio/client', '@temporalio/envconfig', 'pg'] },
      'cli/stack/stack.ts': { values: ['@temporalio/client', '@temporalio/envconfig', 'pg'] },
      'cli/stack/temporal.ts': { values: ['@temporalio/client', '@temporalio/common'] },
      'cli/stack/examples.ts': { values: ['pg'] },
      'cli/stack/postgres.ts': { values: ['pg'] },
    },
  },
};

/** Brings a parser of a megabyte: types only where runs are cached and browsers load. */
const HEAVY = ['core/contracts.ts', 'core/index.ts'];
const LIGHT: readonly Folder[] = ['core', 'workflows', 'client'];

const covers = (allowed: string, target: string): boolean =>
  allowed.endsWith('/') || allowed.endsWith(':') ? target.startsWith(allowed) : target === allowed || target.startsWith(`${allowed}/`);

function mayImport(folder: Folder, path: string, { target, typeOnly }: Import): boolean {
  const { values, types = [], files = {} } = LAYERS[folder];
  const own = files[path];
  if (HEAVY.includes(target) && LIGHT.includes(folder) && !typeOnly && path !== 'core/index.ts') return false;
  if (folder === 'worker' && target === 'adapters/keys.ts') return false;
  const allowed = [...values, ...(own?.values ?? []), ...(typeOnly ? [...types, ...(own?.types ?? [])] : [])];
  return allowed.some((name) => covers(name, target));
}

const breaches = (folder: Folder, path: string, imports: readonly Import[]): string[] =>
  imports.filter((one) => !mayImport(folder, path, one)).map(({ target, typeOnly }) => `${path} imports ${typeOnly ? 'types of ' : ''}${target}`);

describe.each(FOLDERS)('%s/', (folder) => {
  test('imports only what its layer may know', () => {
    const sources = sourcesOf(folder);
    expect(sources.flatMap(({ path, imports }) => breaches(folder, path, imports))).toEqual([]);
    // Guards the rule itself: it has read files, and it has seen imports.
    expect(sources.length).toBeGreaterThan(0);
    expect(sources.flatMap(({ imports }) => imports).length).toBeGreaterThan(0);
  });
});

const usersOf = (file: string): string[] =>
  allSources()
    .filter(({ imports }) => imports.some(({ target, typeOnly }) => target === file && !typeOnly))
    .map(({ path }) => path);

test('only the decision service reaches the private keys', () => {
  const users = usersOf('adapters/keys.ts');
  expect(users.some((path) => path.startsWith('server/'))).toBe(true);
  expect(users.filter((path) => !path.startsWith('server/') && !path.startsWith('adapters/'))).toEqual([]);
});

test('only the server starts and signals runs', () => {
  const users = usersOf('client/temporal.ts');
  expect(users.length).toBeGreaterThan(0);
  expect(users.filter((path) => !path.startsWith('server/'))).toEqual([]);
});

test('the product imports no test, example, benchmark or script', () => {
  const outside = allSources().flatMap(({ path, imports }) =>
    imports.filter(({ target }) => /^(test|examples|bench|scripts|\.\.)\//.test(target)).map(({ target }) => `${path} imports ${target}`),
  );
  expect(outside).toEqual([]);
});

describe('the test of the layers', () => {
  test('reads imports right: values, types, re-exports, dynamic and bare ones', () => {
    const text = [
      "import { a } from './a.ts';",
      "import type { B } from '../core/b.ts';",
      "import {\n  c,\n  type D,\n} from 'node:fs';",
      "import e, { f } from 'e';",
      "import * as g from 'g';",
      "export { h } from './h.ts';",
      "export * from './i.ts';",
      "export type { J } from './j.ts';",
      "import 'side-effect';",
      "const k = await import('../worker/main.ts');",
      "// import { no } from 'comment';",
      "/* import { no } from 'comment'; */",
    ].join('\n');
    const expected = [
      ['cli/a.ts', false],
      ['core/b.ts', true],
      ['node:fs', false],
      ['e', false],
      ['g', false],
      ['cli/h.ts', false],
      ['cli/i.ts', false],
      ['cli/j.ts', true],
      ['side-effect', false],
      ['worker/main.ts', false],
    ];
    expect(importsOf(text, 'cli/x.ts').map(({ target, typeOnly }) => [target, typeOnly])).toEqual(expected);
  });

  test('finds no fewer imports than there are `from` clauses at line starts in the sources', () => {
    const clauses = allSources().flatMap(({ text }) => [...text.matchAll(/^(?:import|export|\})[^'\n]*\bfrom '[^']+';$/gm)]);
    expect(allSources().flatMap(({ imports }) => imports).length).toBeGreaterThanOrEqual(clauses.length);
    expect(clauses.length).toBeGreaterThan(300);
  });

  test.each<[Folder, string, string]>([
    ['core', 'core/x.ts', "import { z } from 'zod';"],
    ['core', 'core/x.ts', "import { readFile } from 'node:fs/promises';"],
    ['core', 'core/x.ts', "import type { Tools } from '../activities/ports.ts';"],
    ['core', 'core/x.ts', "import { RunFile } from './contracts.ts';"],
    ['workflows', 'workflows/x.ts', "import { RunFile } from '../core/contracts.ts';"],
    ['workflows', 'workflows/x.ts', "import { decideApproval } from '../core/index.ts';"],
    ['workflows', 'workflows/x.ts', "import { randomUUID } from 'node:crypto';"],
    ['activities', 'activities/x.ts', "import type { z } from 'zod';"],
    ['activities', 'activities/define.ts', "import { z } from 'zod';"],
    ['activities', 'activities/x.ts', "import { hashing } from '../adapters/hashing.ts';"],
    ['adapters', 'adapters/x.ts', "import { runServer } from '../server/main.ts';"],
    ['adapters', 'adapters/x.ts', "import { HoldpointClient } from '../client/index.ts';"],
    ['adapters', 'adapters/x.ts', "import { Client } from '@temporalio/client';"],
    ['client', 'client/index.ts', "import { Client } from '@temporalio/client';"],
    ['client', 'client/index.ts', "import { connectTemporal } from './temporal.ts';"],
    ['client', 'client/index.ts', "import { RunFile } from '../core/contracts.ts';"],
    ['worker', 'worker/x.ts', "import { loadSigningKeys } from '../adapters/keys.ts';"],
    ['worker', 'worker/x.ts', "import type { RunView } from '../client/types.ts';"],
    ['worker', 'worker/x.ts', "import { createApp } from '../server/app.ts';"],
    ['server', 'server/x.ts', "import { createGateway } from '../activities/gateway.ts';"],
    ['server', 'server/x.ts', "import { agentRun } from '../workflows/index.ts';"],
    ['cli', 'cli/x.ts', "import { createWorker } from '../worker/index.ts';"],
    ['cli', 'cli/x.ts', "const temporal = await import('../client/temporal.ts');"],
    ['cli', 'cli/x.ts', "import { run } from '../test/e2e/cli.ts';"],
  ])('finds the breach in %s/: in %s, %s', (folder, path, text) => {
    expect(breaches(folder, path, importsOf(text, path))).toHaveLength(1);
  });
});
