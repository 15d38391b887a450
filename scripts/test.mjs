// Builds, runs vitest with the arguments given, and ends with the line "N passed, N failed". Fails when no test ran.
// With --full first, on the full Temporal server: HOLDPOINT_TEST_SERVER=full without a shell.
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const folder = mkdtempSync(join(tmpdir(), 'holdpoint-results-'));
const results = join(folder, 'results.json');

const full = process.argv[2] === '--full';
if (full) process.env.HOLDPOINT_TEST_SERVER = 'full';

const built = spawnSync(process.execPath, [join(root, 'scripts', 'build.mjs')], { cwd: root, stdio: 'inherit' }).status === 0;
const code = built ? await runVitest() : 1;
const counts = built ? readCounts(code) : { passed: 0, failed: 1 };
rmSync(folder, { recursive: true, force: true });
process.exitCode = counts.failed === 0 && counts.passed > 0 && code === 0 ? 0 : 1;
process.stdout.write(`${counts.passed} passed, ${counts.failed} failed\n`);

function runVitest() {
  const vitest = join(dirname(createRequire(import.meta.url).resolve('vitest/package.json')), 'vitest.mjs');
  const args = [vitest, 'run', '--reporter=default', '--reporter=json', `--outputFile.json=${results}`, ...process.argv.slice(full ? 3 : 2)];
  const child = spawn(process.execPath, args, { cwd: root, stdio: 'inherit' });
  // Ctrl-C reaches vitest by itself: wait for it to stop the servers it started.
  process.on('SIGINT', () => {});
  process.on('SIGTERM', () => child.kill('SIGTERM'));
  return new Promise((resolve) => {
    child.once('error', () => resolve(1));
    child.once('close', (status) => resolve(status ?? 1));
  });
}

/** A file that fails to load has no failed test of its own, and a crash leaves no results: both count as failures. */
function readCounts(exitCode) {
  let report;
  try {
    report = JSON.parse(readFileSync(results, 'utf8'));
  } catch {
    return { passed: 0, failed: 1 };
  }
  const silent = report.testResults.filter((file) => file.status === 'failed' && !file.assertionResults.some((test) => test.status === 'failed'));
  const failed = report.numFailedTests + silent.length;
  return { passed: report.numPassedTests, failed: failed === 0 && exitCode !== 0 ? 1 : failed };
}
