/**
 * The benchmark: npm run bench -- --help
 *
 * Holdpoint and the minimal workflow in turn, on the same server, in the same minutes. Nothing here fails because of a slow
 * machine: bars are reported, not enforced.
 */
import { cpus, loadavg, totalmem } from 'node:os';
import { parseArgs } from 'node:util';
import { countEvents, measureCrowd, measureMemory, measureRequests } from './extras.ts';
import { measureRound, type Sizes } from './phases.ts';
import { compare, type ServerResult, short, tables } from './report.ts';
import { openHoldpoint } from './side-holdpoint.ts';
import { openMinimal } from './side-minimal.ts';
import { openStand, type ServerKind, serverKind, type Stand } from './stand.ts';

const USAGE = `usage: npm run bench -- [options]
  --server embedded|full|both  which Temporal server (default: both; HOLDPOINT_TEST_SERVER has the same say)
  --rounds N                   rounds of both sides (default 3)
  --quick                      smaller numbers: both servers in less than ten minutes on two cores
  --crowd N                    instead of the rest: N runs wait on one worker, then all are approved
  --json                       one JSON object on stdout
`;
interface Scale {
  sizes: Sizes;
  requests: number;
  waiting: number;
  wake: number;
}
const SCALES = {
  full: { sizes: { idle: 100, runs: 300, longRuns: 20, longCalls: 50, concurrency: 20 }, requests: 100, waiting: 1_000, wake: 50 },
  quick: { sizes: { idle: 30, runs: 80, longRuns: 20, longCalls: 20, concurrency: 20 }, requests: 30, waiting: 200, wake: 15 },
  // Says nothing about speed: shows that the benchmark works.
  smoke: { sizes: { idle: 3, runs: 6, longRuns: 2, longCalls: 3, concurrency: 3 }, requests: 3, waiting: 30, wake: 3 },
} satisfies Record<string, Scale>;

interface Options {
  servers: ServerKind[];
  rounds: number;
  scale: keyof typeof SCALES;
  json: boolean;
  crowd: number | undefined;
}

const report = (message: string): void => void process.stderr.write(`${new Date().toISOString().slice(11, 19)} ${message}\n`);

process.exitCode = await main(process.argv.slice(2));

async function main(args: string[]): Promise<number> {
  let options: Options | undefined;
  try {
    options = optionsOf(args);
  } catch (error) {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}`);
    return 2;
  }
  if (options === undefined) {
    process.stdout.write(USAGE);
    return 0;
  }
  const before = loadavg()[0] ?? 0;
  const began = performance.now();
  const servers: Partial<Record<ServerKind, ServerResult>> = {};
  for (const kind of options.servers) {
    servers[kind] = await measureServer(kind, options);
    if (!options.json) process.stdout.write(`${tables(kind, servers[kind])}\n\n`);
  }
  if (options.json) process.stdout.write(`${JSON.stringify(documentOf(servers, options, before, (performance.now() - began) / 1000), rounded)}\n`);
  return 0;
}

function optionsOf(args: string[]): Options | undefined {
  const { values } = parseArgs({
    args,
    options: {
      server: { type: 'string' },
      rounds: { type: 'string', default: '3' },
      quick: { type: 'boolean', default: false },
      smoke: { type: 'boolean', default: false },
      json: { type: 'boolean', default: false },
      crowd: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) return undefined;
  const server = values.server ?? (process.env['HOLDPOINT_TEST_SERVER'] === undefined ? 'both' : serverKind());
  if (server !== 'embedded' && server !== 'full' && server !== 'both') throw new Error(`--server is embedded, full or both, not ${server}`);
  const whole = (name: string, text: string): number => {
    if (!/^[1-9]\d{0,5}$/.test(text)) throw new Error(`${name} is a whole number above 0, not ${text}`);
    return Number(text);
  };
  return {
    servers: server === 'both' ? ['embedded', 'full'] : [server],
    rounds: whole('--rounds', values.rounds),
    scale: values.smoke ? 'smoke' : values.quick ? 'quick' : 'full',
    json: values.json,
    crowd: values.crowd === undefined ? undefined : whole('--crowd', values.crowd),
  };
}

async function measureServer(kind: ServerKind, options: Options): Promise<ServerResult> {
  report(`${kind}: starting PostgreSQL and the Temporal server`);
  const stand = await openStand(kind, report);
  try {
    return options.crowd === undefined ? await measureAll(stand, kind, options) : await measureOnlyCrowd(stand, kind, options.crowd);
  } finally {
    await stand.close();
  }
}

async function measureOnlyCrowd(stand: Stand, kind: ServerKind, count: number): Promise<ServerResult> {
  report(`${kind}: ${count} waiting runs`);
  return { rounds: [], requests: null, events: null, memory: null, crowd: await measureCrowd(stand, count, (message) => report(`${kind}: ${message}`)) };
}

async function measureAll(stand: Stand, kind: ServerKind, { rounds: count, scale }: Options): Promise<ServerResult> {
  const { sizes, requests: asked, waiting, wake } = SCALES[scale];
  const rounds: ServerResult['rounds'] = [];
  for (let round = 1; round <= count; round++) {
    report(`${kind}: round ${round} of ${count}`);
    // Each side has a worker of its own, and only one of them runs.
    const minimal = await oneSide(stand, openMinimal, sizes);
    rounds.push({ minimal, holdpoint: await oneSide(stand, openHoldpoint, sizes) });
  }
  report(`${kind}: decision requests`);
  const requests = await measureRequests(stand, asked);
  report(`${kind}: events`);
  const events = await countEvents(stand);
  report(`${kind}: memory`);
  const memory = await measureMemory(stand, openHoldpoint, waiting, wake);
  return { rounds, requests, events, memory, crowd: null };
}

async function oneSide(stand: Stand, open: typeof openMinimal, sizes: Sizes): ReturnType<typeof measureRound> {
  const side = await open(stand, 500);
  try {
    return await measureRound(stand, side, sizes);
  } finally {
    await side.close();
  }
}

function documentOf(servers: Partial<Record<ServerKind, ServerResult>>, options: Options, loadBefore: number, seconds: number): object {
  const machine = { cores: cpus().length, model: cpus()[0]?.model ?? '', memory_gb: totalmem() / 1e9, node: process.version, load_before: loadBefore };
  const results = Object.entries(servers).map(([kind, result]) => [kind, { compared: result.rounds.length === 0 ? [] : compare(result), ...result }]);
  return { at: new Date().toISOString(), seconds, scale: options.scale, machine, servers: Object.fromEntries(results) as object };
}

function rounded(_key: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isInteger(value) ? short(value) : value;
}
