/** What each entry loads at run time, through all its files. */
import { expect, test } from 'vitest';
import { loadedBy } from './sources.ts';

const packagesOf = (entry: string): string[] => [...loadedBy(entry)].filter((target) => !target.endsWith('.ts')).sort();

test('the client loads no package and nothing of Node', () => {
  expect(packagesOf('client/index.ts')).toEqual([]);
  expect(loadedBy('client/index.ts')).toContain('core/errors.ts');
});

test('the workflows load the sandbox part of the SDK and no parser', () => {
  expect(packagesOf('workflows/index.ts').filter((name) => name !== '@temporalio/workflow' && name !== '@temporalio/common')).toEqual([]);
  expect(loadedBy('workflows/index.ts')).not.toContain('core/contracts.ts');
  expect(loadedBy('workflows/index.ts')).toContain('core/run.ts');
});

test('the core entry loads zod and nothing else', () => {
  expect(packagesOf('core/index.ts')).toEqual(['zod']);
});

test('the entry for authors of tools and planners loads nothing but itself', () => {
  expect([...loadedBy('activities/define.ts')]).toEqual(['activities/define.ts']);
});

test('the worker loads what verifies and nothing that signs, serves or decides', () => {
  const loaded = [...loadedBy('worker/main.ts')];
  expect(loaded).toContain('adapters/tokens.ts');
  expect(loaded.filter((path) => path === 'adapters/keys.ts' || path.startsWith('server/') || path.startsWith('client/'))).toEqual([]);
});
