/** The public surface, spelled out: an export that comes or goes is a decision. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import * as tools from '../../activities/define.ts';
import * as client from '../../client/index.ts';
import * as core from '../../core/index.ts';
import * as worker from '../../worker/index.ts';
import { ROOT } from './sources.ts';

interface Manifest {
  exports: Record<string, string | { types: string; default: string }>;
  bin: Record<string, string>;
  files: string[];
}
const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Manifest;

/** `./dist/client/index.d.ts` → `client/index.ts`. */
const sourceOf = (built: string): string => built.replace(/^(\.\/)?dist\//, '').replace(/(\.d\.ts|\.js)$/, '.ts');

describe('package.json', () => {
  test('exports these entries and no other', () => {
    expect(Object.keys(manifest.exports)).toEqual(['.', './core', './tools', './workflows', './worker', './package.json']);
  });

  test('names sources that exist, types and code of the same one', () => {
    for (const [entry, target] of Object.entries(manifest.exports)) {
      if (typeof target === 'string') continue;
      expect(sourceOf(target.types), entry).toBe(sourceOf(target.default));
      expect(existsSync(join(ROOT, sourceOf(target.default))), `${entry} → ${sourceOf(target.default)}`).toBe(true);
    }
    for (const target of Object.values(manifest.bin)) expect(existsSync(join(ROOT, sourceOf(target))), target).toBe(true);
  });

  test('ships the JSON Schema of holdpoint.yaml', () => {
    expect(manifest.files).toContain('holdpoint.schema.json');
    expect(existsSync(join(ROOT, 'holdpoint.schema.json'))).toBe(true);
  });
});
