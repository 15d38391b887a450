import { chmod, mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { cacheDir } from '../../cli/stack/programs.ts';
import { ensureTemporal, findTemporal, TEMPORAL_CLI_VERSION } from '../../cli/stack/temporal-binary.ts';
import { temporaryFolder } from '../support/index.ts';

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
beforeEach(async () => {
  folder = await temporaryFolder();
});
afterEach(() => folder.remove());

async function program(path: string): Promise<string> {
  await mkdir(join(path, '..'), { recursive: true });
  await writeFile(path, '#!/bin/sh\n');
  await chmod(path, 0o755);
  return path;
}

test('a temporal on PATH comes before the cached one', async () => {
  const cached = await program(join(folder.path, 'cache', `temporal-${TEMPORAL_CLI_VERSION}`, 'temporal'));
  const env = { HOLDPOINT_CACHE_DIR: join(folder.path, 'cache'), PATH: `/nowhere:${join(folder.path, 'bin')}` };
  expect(await findTemporal(env)).toBe(cached);
  const onPath = await program(join(folder.path, 'bin', 'temporal'));
  expect(await findTemporal(env)).toBe(onPath);
});

test('without it, and with downloads forbidden, the error names the ways to get it', async () => {
  const env = { HOLDPOINT_CACHE_DIR: folder.path, PATH: '/nowhere', HOLDPOINT_NO_DOWNLOAD: '1' };
  await expect(ensureTemporal(() => {}, env)).rejects.toMatchObject({ code: 'missing_part', hint: expect.stringMatching(/go install .*TEMPORAL_ADDRESS/s) });
});

test('the cache follows HOLDPOINT_CACHE_DIR, then XDG_CACHE_HOME, then the home directory', () => {
  expect(cacheDir({ HOLDPOINT_CACHE_DIR: '/a', XDG_CACHE_HOME: '/b' })).toBe('/a');
  expect(cacheDir({ XDG_CACHE_HOME: '/b' })).toBe('/b/holdpoint');
  expect(cacheDir({})).toMatch(/\/\.cache\/holdpoint$/);
});
