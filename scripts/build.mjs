// Builds dist/: compiles, copies what is not code, bundles the workflows. The old dist/ stays until the new one is whole.
import { spawnSync } from 'node:child_process';
import { chmodSync, cpSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, extname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const dist = join(root, `.dist-${process.pid}`);
const ASSETS = new Set(['.sql', '.yaml', '.html', '.css', '.svg']);
const FOLDERS = ['adapters', 'server', 'cli'];

process.on('exit', () => rmSync(dist, { recursive: true, force: true }));
compile();
copyAssets();
await bundleWorkflows();
makeExecutable();
publish();

function compile() {
  const tsc = join(dirname(createRequire(import.meta.url).resolve('typescript/package.json')), 'bin', 'tsc');
  const { status } = spawnSync(process.execPath, [tsc, '-p', 'tsconfig.build.json', '--outDir', dist], { cwd: root, stdio: 'inherit' });
  if (status !== 0) fail('tsc found errors');
}

function copyAssets() {
  for (const folder of FOLDERS) {
    for (const entry of readdirSync(join(root, folder), { recursive: true, withFileTypes: true })) {
      if (!entry.isFile() || !ASSETS.has(extname(entry.name))) continue;
      const from = join(entry.parentPath, entry.name);
      const to = join(dist, from.slice(root.length));
      mkdirSync(dirname(to), { recursive: true });
      cpSync(from, to);
    }
  }
}

async function bundleWorkflows() {
  const module = join(dist, 'worker', 'bundle.js');
  if (!existsSync(module)) return;
  const { buildWorkflowBundle } = await import(pathToFileURL(module).href);
  const { code } = await buildWorkflowBundle();
  writeFileSync(join(dist, 'workflow-bundle.js'), code);
}

function makeExecutable() {
  const main = join(dist, 'cli', 'main.js');
  if (existsSync(main)) chmodSync(main, 0o755);
}

function publish() {
  const target = join(root, 'dist');
  rmSync(target, { recursive: true, force: true });
  renameSync(dist, target);
}

function fail(message) {
  process.stderr.write(`build: ${message}\n`);
  process.exit(1);
}
