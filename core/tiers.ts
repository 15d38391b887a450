/** Risk tiers: which of several is stricter, and what a tier asks for. */
import type { PolicyFile } from './contracts.ts';
import { matchesTool } from './glob.ts';

export const DEFAULT_TIER = 'default';
/** Approval is mandatory: no rule lets a call of this tier through unasked. */
export const HIGH_TIER = 'high';
/** Goes through unasked unless something else asks. */
export const LOW_TIER = 'low';

/** Names that need no entry in the file, and those that have one. */
export function knownTiers(policy: PolicyFile): string[] {
  return [...new Set([HIGH_TIER, DEFAULT_TIER, LOW_TIER, ...Object.keys(policy.tiers ?? {})])];
}

/** What a tier sets of its own. Nothing for one that the file only names. */
export function tierTerms(policy: PolicyFile, tier: string): { ttl_seconds?: number | undefined; quorum?: number | undefined } {
  const { tiers } = policy;
  return (tiers !== undefined && Object.hasOwn(tiers, tier) ? tiers[tier] : undefined) ?? {};
}

/** Tiers that a tool is in, rules aside: those that the file names, else the one of its own definition. */
export function tiersOfTool(policy: PolicyFile, tool: string, defined: string | undefined): string[] {
  const named = Object.entries(policy.policy.tool_tiers ?? {}).flatMap(([pattern, tier]) => (matchesTool(pattern, tool) ? [tier] : []));
  return named.length > 0 || defined === undefined ? named : [defined];
}

/** The strictest of the tiers that were named; the default one when none was. */
export function strictestTier(policy: PolicyFile, named: readonly string[]): string {
  return [...named].sort((a, b) => stricterFirst(policy, a, b))[0] ?? DEFAULT_TIER;
}

/** `high`, then tiers of the file's own, then `default`, then `low`; of the file's own the larger quorum, then the shorter time, then by name. */
function stricterFirst(policy: PolicyFile, a: string, b: string): number {
  const quorum = (tier: string): number => tierTerms(policy, tier).quorum ?? policy.approvals.quorum;
  const ttl = (tier: string): number => tierTerms(policy, tier).ttl_seconds ?? policy.approvals.ttl_seconds;
  return rank(b) - rank(a) || quorum(b) - quorum(a) || ttl(a) - ttl(b) || (a < b ? -1 : Number(a > b));
}

function rank(tier: string): number {
  if (tier === HIGH_TIER) return 3;
  if (tier === LOW_TIER) return 0;
  return tier === DEFAULT_TIER ? 1 : 2;
}
