// Builds and runs bench/main.ts with the arguments given: what is measured is what is built.
import { spawnSync } from 'node:child_process';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const run = (args) => spawnSync(process.execPath, args, { cwd: root, stdio: 'inherit' }).status ?? 1;
process.exitCode = run([join(root, 'scripts', 'build.mjs')]) || run(['--import', 'tsx', join(root, 'bench', 'main.ts'), ...process.argv.slice(2)]);
