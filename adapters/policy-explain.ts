/** Why a call gets its outcome: the same steps as in the gateway, without a server, a ledger or a tool's effect. */
import { z } from 'zod';
import type { Tools } from '../activities/ports.ts';
import { Identifier } from '../core/contracts.ts';
import { messageOf } from '../core/errors.ts';
import { matchesTool } from '../core/glob.ts';
import { type ConsideredRule, considerRules, decidePolicy, outsideScope, type PolicyDecision } from '../core/policy.ts';
import { type ConditionProblem, factsOf, type PolicyCall } from '../core/policy-facts.ts';
import { LIMITS } from '../core/words.ts';
import { canonical } from './hashing.ts';
import type { LoadedPolicyFile } from './policy-file.ts';

const count = z.int().min(0);

/** A call to explain. What is left out is unknown, as to a run that never said it; `now` is the present, the run is a verified one at its start. */
export const ExplainedCall = z.strictObject({
  tool: Identifier,
  args: z.unknown().default({}),
  /** Of a tool that no module registers; a registered one has its own. */
  kind: z.enum(['read', 'write']).optional(),
  idempotent: z.boolean().optional(),
  tool_tier: Identifier.optional(),
  agent: Identifier.optional(),
  owner: Identifier.optional(),
  requester: z.string().max(200).optional(),
  /** False: as if the API had not started the run. */
  verified: z.boolean().default(true),
  run: z
    .strictObject({
      run_id: z.string().default('run_explained'),
      goal: z.string().optional(),
      steps: count.default(0),
      tool_calls: count.default(0),
      active_seconds: z.number().min(0).default(0),
      usd: z.number().min(0).default(0),
    })
    .prefault({}),
  now: z.iso.datetime({ offset: true }).optional(),
});
export type ExplainedCall = z.output<typeof ExplainedCall>;

export interface ExplainedRule {
  id: string;
  line: number;
  effect: string;
  tier: string | null;
  /** `none`: the rule has no condition. */
  condition: 'none' | 'true' | 'false' | ConditionProblem;
  /** What the evaluator said of a condition that has no answer. */
  detail: string | null;
}

export interface Explanation {
  tool: string;
  kind: 'read' | 'write';
  /** What should be known about the answer. */
  notes: string[];
  /** Why the call is out of scope; null when it is inside. */
  scope: string | null;
  /** What puts the tool into a tier, rules aside. */
  tiers: { pattern: string; tier: string; line: number | null }[];
  /** Rules that speak of the tool and of who takes part, in the order of the file. */
  rules: ExplainedRule[];
  decision: PolicyDecision;
  /** Line of the rule or key that decided; null for a default. */
  line: number | null;
}

/** Looks at scope, tiers and rules. The kill switch and budgets, asked before them, live with a server. */
export function explainCall(file: LoadedPolicyFile, tools: Tools, given: ExplainedCall, present: Date): Explanation {
  const { call, notes, invalid } = readCall(tools, given, present);
  const { policy } = file;
  const considered = invalid === undefined ? considerRules(policy, call, file.conditions) : [];
  const scope = outsideScope(policy, call);
  const decision = decidePolicy(policy, call, considered);
  const found: PolicyDecision = invalid === undefined ? decision : { ...decision, outcome: 'deny', rule: 'invalid_arguments', reason: invalid };
  return {
    tool: call.tool,
    kind: call.kind,
    notes: [...notes, ...missingRoles(file, call)],
    scope: scope?.reason ?? null,
    tiers: tierSources(file, call),
    rules: considered.map((one) => explainedRule(file, one)),
    decision: found,
    line: lineOf(file, found.rule),
  };
}

/** As the gateway reads a call: by the schema of its tool, in canonical form, within the limit. */
function readCall(tools: Tools, given: ExplainedCall, present: Date): { call: PolicyCall; notes: string[]; invalid: string | undefined } {
  const tool = tools.get(given.tool);
  const kind = tool?.kind ?? given.kind ?? 'write';
  const notes = tool || given.kind ? [] : [`no module registers ${given.tool}: it is taken for a write, a gateway without it would answer unknown_tool`];
  const parsed = tool?.parse(given.args) ?? { ok: true as const, value: given.args };
  const { agent, owner, requester, verified, run } = given;
  const { goal, ...used } = run;
  const idempotent = tool?.idempotent ?? given.idempotent;
  const call: PolicyCall = {
    tool: given.tool,
    kind,
    verified,
    args: parsed.ok ? parsed.value : given.args,
    run: { ...used, ...(goal === undefined ? {} : { goal }) },
    now: given.now === undefined ? present : new Date(given.now),
    ...(idempotent === undefined ? {} : { idempotent }),
    tool_tier: tool?.tier ?? given.tool_tier,
    ...(agent === undefined ? {} : { agent }),
    ...(owner === undefined ? {} : { owner }),
    ...(requester === undefined ? {} : { requester }),
  };
  return { call, notes, invalid: parsed.ok ? oddity(parsed.value) : `${given.tool}: ${parsed.problem}` };
}

function oddity(args: unknown): string | undefined {
  try {
    const bytes = Buffer.byteLength(canonical(args));
    return bytes > LIMITS.args ? `the arguments are ${bytes} bytes; at most ${LIMITS.args} are taken` : undefined;
  } catch (error) {
    return messageOf(error);
  }
}

/** A rule for roles is silent about somebody who is not named: that is worth a word. */
function missingRoles({ policy }: LoadedPolicyFile, call: PolicyCall): string[] {
  const { agent, owner } = factsOf(policy, call);
  return [
    ...(policy.agents && agent.name === undefined ? ['the call names no agent: it has no role'] : []),
    ...(policy.owners && owner === null ? ['the call names no owner: it has no role'] : []),
  ];
}

/** The tool's own definition has no line. */
function tierSources({ policy, placeOf }: LoadedPolicyFile, { tool, tool_tier: defined }: PolicyCall): Explanation['tiers'] {
  const named = Object.entries(policy.policy.tool_tiers ?? {}).filter(([pattern]) => matchesTool(pattern, tool));
  if (named.length === 0 && defined !== undefined) return [{ pattern: tool, tier: defined, line: null }];
  return named.map(([pattern, tier]) => ({ pattern, tier, line: placeOf(['policy', 'tool_tiers', pattern]).line }));
}

function explainedRule(file: LoadedPolicyFile, { rule, answer }: ConsideredRule): ExplainedRule {
  const odd = typeof answer === 'boolean' ? undefined : answer;
  return {
    id: rule.id,
    line: file.placeOf(['policy', 'rules', file.policy.policy.rules.indexOf(rule)]).line,
    effect: rule.effect,
    tier: rule.tier ?? null,
    condition: rule.when === undefined ? 'none' : (odd?.problem ?? (answer === true ? 'true' : 'false')),
    detail: odd?.detail ?? null,
  };
}

function lineOf(file: LoadedPolicyFile, rule: string): number | null {
  const index = file.policy.policy.rules.findIndex(({ id }) => id === rule);
  if (index >= 0) return file.placeOf(['policy', 'rules', index]).line;
  return /^(policy|approvals)\./.test(rule) ? file.placeOf(rule.split('.')).line : null;
}
