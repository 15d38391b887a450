/**
 * How long policy takes for one call: `npm run build && node bench/policy.mjs`. Prints JSON, times in microseconds.
 * Exits 1 when p99 of `spread` is above the bar.
 *
 * `spread`: 500 rules with conditions over 50 tools, as in a large file. `all`: every one of the 500 speaks of the called tool,
 * so that 500 conditions are evaluated. Facts are made anew for each call, as in the gateway.
 */
import { compileConditions } from '../dist/adapters/cel.js';
import { PolicyFile } from '../dist/core/contracts.js';
import { evaluatePolicy } from '../dist/core/policy.js';
import { policyCall } from '../dist/core/policy-facts.js';

const RULES = 500;
const TOOLS = 50;
const CALLS = 20_000;
const BAR_US = 1_000;

const CONDITIONS = [
  (n) => `args.amount > ${1_000 + n} && args.currency == "EUR"`,
  (n) => `args.to.endsWith("@partner${n}.example.com")`,
  (n) => `"role${n % 7}" in agent.roles && run.tool_calls > ${n}`,
  (n) => `args.lines.exists(l, l.quantity > ${n + 100})`,
  (n) => `args.note.matches("(?i)urgent.{0,${n % 20}}wire")`,
];
const EFFECTS = ['approval_required', 'allow', 'deny'];

function policyOf(toolsOf) {
  const rules = Array.from({ length: RULES }, (_, n) => ({
    id: `rule-${n}`,
    tools: toolsOf(n),
    when: CONDITIONS[n % CONDITIONS.length](n),
    effect: EFFECTS[n % EFFECTS.length],
    quorum: 1 + (n % 3),
  }));
  return PolicyFile.parse({ policy: { rules }, agents: { helper: { roles: ['support', 'role1', 'role3'] } } });
}

const lines = Array.from({ length: 10 }, (_, n) => ({ sku: `sku-${n}`, quantity: n }));
const args = { amount: 250, currency: 'EUR', to: 'ann@example.com', note: 'please refund the last order '.repeat(4), lines };

function callOf(n) {
  return policyCall({
    run_id: 'run_1',
    run: {
      registered: true,
      agent: 'helper',
      owner: 'ann',
      requester: 'rita',
      goal: 'refund',
      usage: { steps: 1, tool_calls: 1, active_seconds: 2, usd: 0.1 },
    },
    tool: { name: `tool${n % TOOLS}.write`, kind: 'write', idempotent: true },
    args,
    reserved: true,
    now: new Date(),
  });
}

function measure(policy, calls) {
  const loadedAt = performance.now();
  const conditions = compileConditions(policy);
  const load_ms = performance.now() - loadedAt;
  const times = [];
  const cpu = [];
  for (let n = 0; n < calls * 1.2; n++) {
    const call = callOf(n);
    const before = process.cpuUsage();
    const startedAt = performance.now();
    evaluatePolicy(policy, call, conditions);
    times.push((performance.now() - startedAt) * 1_000);
    const { user, system } = process.cpuUsage(before);
    cpu.push(user + system);
  }
  const warm = Math.round(calls * 0.2);
  return { ...percentiles(times.slice(warm), ''), ...percentiles(cpu.slice(warm), 'cpu_'), load_ms: Math.round(load_ms) };
}

/** CPU time is what the process used, whatever else the machine was doing; its own threads for garbage are in it. */
function percentiles(values, name) {
  const sorted = values.toSorted((a, b) => a - b);
  const at = (share) => Math.round(sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * share))] * 10) / 10;
  return { [`${name}p50_us`]: at(0.5), [`${name}p99_us`]: at(0.99) };
}

const spread = measure(
  policyOf((n) => [`tool${n % TOOLS}.*`]),
  CALLS,
);
const all = measure(
  policyOf(() => ['*.write']),
  CALLS / 10,
);
const ok = spread.p99_us <= BAR_US;
console.log(JSON.stringify({ rules: RULES, node: process.version, bar_us: BAR_US, ok, spread, all }));
process.exitCode = ok ? 0 : 1;
