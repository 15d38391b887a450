/** The benchmark works: what it says of speed is for a person to read, on a machine that does nothing else. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { expect, test } from 'vitest';
import type { ServerResult } from '../../bench/report.ts';
import { type Comparison, compare, median, tables } from '../../bench/report.ts';
import type { RoundOfOneSide } from '../../bench/phases.ts';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

async function bench(args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  const child = spawn(process.execPath, ['--import', 'tsx', 'bench/main.ts', ...args], { cwd: ROOT, stdio: ['ignore', 'pipe', 'pipe'] });
  const said = { stdout: '', stderr: '' };
  for (const name of ['stdout', 'stderr'] as const) child[name].setEncoding('utf8').on('data', (text: string) => (said[name] += text));
  const [code] = (await once(child, 'close')) as [number | null];
  return { code, ...said };
}

interface Document {
  scale: string;
  servers: { embedded: ServerResult & { compared: Comparison[] } };
}

test('a small run of everything ends with one JSON object: both sides compared, events within their bars', { timeout: 240_000 }, async () => {
  const { code, stdout, stderr } = await bench(['--smoke', '--json', '--rounds', '1', '--server', 'embedded']);
  expect([code, code === 0 ? '' : stderr]).toEqual([0, '']);
  const { scale, servers } = JSON.parse(stdout) as Document;
  const { compared, rounds, requests, events, memory, crowd } = servers.embedded;
  expect([scale, rounds.length, crowd]).toEqual(['smoke', 1, null]);
  for (const row of compared.filter(({ what }) => !/CPU|^ /.test(what)))
    expect([row.what, row.minimal > 0, row.holdpoint > 0, row.ratio > 0]).toEqual([row.what, true, true, true]);
  expect(compared.filter(({ bar }) => bar !== null)).toHaveLength(3);
  expect(requests!.to_tool.p50).toBeGreaterThan(0);
  expect(requests!.to_answer.p50).toBeGreaterThan(0);
  expect(events!.gated).toBeLessThanOrEqual(20);
  expect(events!.gated).toBeGreaterThan(12);
  expect(events!.allowed).toBeLessThanOrEqual(6);
  expect([memory!.resume_cached.p50 > 0, memory!.resume_evicted.p50 > 0, Number.isFinite(memory!.kb_per_run_cached)]).toEqual([true, true, true]);
});

test('of a crowd that waits on one worker each has exactly one effect after its approval', { timeout: 120_000 }, async () => {
  const { code, stdout } = await bench(['--crowd', '60', '--json', '--server', 'embedded']);
  expect(code).toBe(0);
  expect((JSON.parse(stdout) as Document).servers.embedded.crowd).toMatchObject({ waiting: 60, effects: 60, calls_with_effect: 60 });
});

test('options that make no sense are refused with the usage', async () => {
  for (const args of [['--rounds', '0'], ['--server', 'mine'], ['--crowd', 'x'], ['--fast']]) {
    const { code, stderr, stdout } = await bench(args);
    expect([args, code, stdout]).toEqual([args, 2, '']);
    expect(stderr).toContain('usage: npm run bench');
  }
});

function round(speed: number, time: number): RoundOfOneSide {
  const latency = { p50: time, p99: time };
  const cpu = { worker: time, temporal: time, postgres: 0, worker_main: time, worker_node: 0, worker_native: 0 };
  const rates = { asks_per_second: speed, approvals_per_second: speed, runs_per_second: speed, calls_per_second: speed };
  return { idle: latency, loaded: latency, ...rates, cpu_ms_per_run: cpu, cpu_ms_per_call: cpu };
}

test('medians are compared with the bars, and a bar that is missed is called missed', () => {
  const rounds = [
    { minimal: round(100, 10), holdpoint: round(70, 11) },
    { minimal: round(110, 10), holdpoint: round(90, 13) },
    { minimal: round(90, 10), holdpoint: round(79, 12) },
  ];
  const result: ServerResult = { rounds, requests: null, events: null, memory: null, crowd: null };
  const [calls, idle] = compare(result);
  expect([calls!.ratio, calls!.met]).toEqual([0.79, false]);
  expect([idle!.ratio, idle!.met]).toEqual([1.2, true]);
  expect(tables('full', result)).toMatch(/approved calls.* 100 +79 +a second +0\.79 +at least 0\.8: MISSED/);
  expect([median([3, 1, 2]), median([4, 1, 2, 3])]).toEqual([2, 2.5]);
});
