/** Policy: what may happen, what must be asked, what never happens. Pure: the same file and call give the same answer for ever. */
import type { PolicyFile, Rule } from './contracts.ts';
import { matchesAny } from './glob.ts';
import { type ConditionAnswer, type ConditionProblem, type Conditions, factsOf, NO_CONDITIONS, type PolicyCall, rolesIn } from './policy-facts.ts';
import { HIGH_TIER, LOW_TIER, strictestTier, tiersOfTool, tierTerms } from './tiers.ts';
import type { PolicyOutcome } from './words.ts';

export interface PolicyDecision {
  readonly outcome: PolicyOutcome;
  /** A sentence for people. It never quotes arguments: it outlives them. */
  readonly reason: string;
  /** What decided: a rule's id or the key of the file. */
  readonly rule: string;
  readonly tier: string;
  readonly ttl_seconds: number;
  readonly quorum: number;
}

/** A rule that speaks of this tool and these people, and what its condition said; true when it has none. */
export interface ConsideredRule {
  readonly rule: Rule;
  readonly answer: ConditionAnswer;
}

type Finding = Pick<PolicyDecision, 'outcome' | 'rule' | 'reason'>;

/** A rule that counts for this call, with the effect that it has on it. */
interface AppliedRule {
  readonly rule: Rule;
  readonly effect: PolicyOutcome;
  readonly problem: ConditionProblem | undefined;
}

/** All that the steps of a decision look at. */
interface Case {
  readonly policy: PolicyFile;
  readonly call: PolicyCall;
  readonly applied: readonly AppliedRule[];
  readonly tier: string;
}

/** `deny` over `approval_required` over `allow`: the order of rules in the file changes nothing, not even which one is named. */
export function evaluatePolicy(policy: PolicyFile, call: PolicyCall, conditions: Conditions = NO_CONDITIONS): PolicyDecision {
  return decidePolicy(policy, call, considerRules(policy, call, conditions));
}

/** No condition of a rule is evaluated for a call that is out of scope. */
export function considerRules(policy: PolicyFile, call: PolicyCall, conditions: Conditions): ConsideredRule[] {
  if (outsideScope(policy, call)) return [];
  const speaking = policy.policy.rules.filter((rule) => speaksOf(policy, rule, call));
  if (speaking.every((rule) => rule.when === undefined)) return speaking.map((rule) => ({ rule, answer: true }));
  const answer = conditions(factsOf(policy, call));
  return speaking.map((rule) => ({ rule, answer: rule.when === undefined ? true : answer(rule.when) }));
}

export function decidePolicy(policy: PolicyFile, call: PolicyCall, considered: readonly ConsideredRule[]): PolicyDecision {
  const applied = considered.flatMap(({ rule, answer }) => (answer === false ? [] : [appliedRule(rule, answer)]));
  const named = [...tiersOfTool(policy, call.tool, call.tool_tier), ...applied.flatMap(({ rule }) => rule.tier ?? [])];
  const about: Case = { policy, call, applied, tier: strictestTier(policy, named) };
  const finding =
    outsideScope(policy, call) ??
    deniedBy(about) ??
    askedBecauseUnverified(about) ??
    askedBy(about) ??
    allowedBy(about) ??
    allowedByTier(about) ??
    decidedByKind(about) ??
    ({ outcome: 'deny', rule: 'policy', reason: `policy has no answer for ${call.tool}` } as const);
  return { ...finding, tier: about.tier, ...termsOf(about) };
}

/** Votes that a request needs under this decision; never fewer than when it was made. */
export function votesNeeded(decision: PolicyDecision, madeFor: number): number {
  return Math.max(madeFor, decision.outcome === 'approval_required' ? decision.quorum : 1);
}

function speaksOf(policy: PolicyFile, rule: Rule, call: PolicyCall): boolean {
  const one = (wanted: readonly string[] | undefined, roles: readonly string[]): boolean => wanted === undefined || wanted.some((role) => roles.includes(role));
  return (
    matchesAny(rule.tools, call.tool) && one(rule.agent_roles, rolesIn(policy.agents, call.agent)) && one(rule.owner_roles, rolesIn(policy.owners, call.owner))
  );
}

/** A condition without an answer never lets a call through. An effect that nobody knows is a refusal, whatever it says. */
function appliedRule(rule: Rule, answer: Exclude<ConditionAnswer, false>): AppliedRule {
  const known = rule.effect === 'allow' || rule.effect === 'approval_required';
  const problem = answer === true ? undefined : answer.problem;
  if (!known) return { rule, effect: 'deny', problem };
  return { rule, effect: problem === undefined ? rule.effect : 'approval_required', problem };
}

/** Why a call is denied before any rule is looked at, or undefined. */
export function outsideScope(policy: PolicyFile, call: PolicyCall): Finding | undefined {
  const { tool } = call;
  const { tool_allowlist: allowlist, tool_blocklist: blocklist } = policy.policy;
  if (matchesAny(blocklist, tool)) return { outcome: 'deny', rule: 'policy.tool_blocklist', reason: `${tool} is on the blocklist` };
  if (allowlist && !matchesAny(allowlist, tool)) return { outcome: 'deny', rule: 'policy.tool_allowlist', reason: `${tool} is not on the allowlist` };
  return outsideRoles(policy, call);
}

/** Whoever the file gives roles to is held to their tools; with a section for agents or owners, one who is not in it has none. */
function outsideRoles(policy: PolicyFile, { tool, agent, owner }: PolicyCall): Finding | undefined {
  const { role_tools: scopes } = policy.policy;
  if (scopes === undefined) return undefined;
  const may = (roles: readonly string[]): boolean => roles.some((role) => Object.hasOwn(scopes, role) && matchesAny(scopes[role] ?? [], tool));
  const outside = (who: string): Finding => ({ outcome: 'deny', rule: 'policy.role_tools', reason: `${tool} is outside the roles of ${who}` });
  if (policy.owners && !may(rolesIn(policy.owners, owner))) return outside(`owner ${owner ?? '(none)'}`);
  if (policy.agents && !may(rolesIn(policy.agents, agent))) return outside(`agent ${agent ?? '(none)'}`);
  return undefined;
}

function deniedBy({ applied, call }: Case): Finding | undefined {
  const found = firstById(applied.filter(({ effect }) => effect === 'deny'));
  return found && { outcome: 'deny', rule: found.rule.id, reason: reasonOf(found, `denies ${call.tool}`) };
}

function askedBecauseUnverified({ call }: Case): Finding | undefined {
  if (call.verified || call.kind === 'read') return undefined;
  return { outcome: 'approval_required', rule: 'unverified', reason: 'this run was not started through the API: every write asks' };
}

function askedBy(about: Case): Finding | undefined {
  const { policy, call, tier } = about;
  const found = strictestFirst(about)[0];
  if (found) return { outcome: 'approval_required', rule: found.rule.id, reason: reasonOf(found, `asks before ${call.tool}`) };
  if (isListed(policy, call)) return { outcome: 'approval_required', rule: 'approvals.required_for', reason: `${call.tool} needs approval` };
  if (tier !== HIGH_TIER) return undefined;
  return { outcome: 'approval_required', rule: 'tiers.high', reason: `${call.tool} is of tier high, where approval is mandatory` };
}

function allowedBy({ applied, call }: Case): Finding | undefined {
  const found = firstById(applied.filter(({ effect }) => effect === 'allow'));
  return found && { outcome: 'allow', rule: found.rule.id, reason: reasonOf(found, `allows ${call.tool}`) };
}

function allowedByTier({ call, tier }: Case): Finding | undefined {
  if (tier !== LOW_TIER || call.kind !== 'write') return undefined;
  return { outcome: 'allow', rule: 'tiers.low', reason: `${call.tool} is of tier low` };
}

/** No rule speaks of this tool. */
function decidedByKind({ policy, call: { tool, kind } }: Case): Finding | undefined {
  if (kind === 'read') return { outcome: 'allow', rule: 'reads', reason: `${tool} only reads` };
  if (kind !== 'write') return undefined;
  const rule = 'writes.require_approval';
  if (policy.writes.require_approval === false) return { outcome: 'allow', rule, reason: 'writes need no approval' };
  return { outcome: 'approval_required', rule, reason: `${tool} writes, and no rule lets it through` };
}

const PROBLEM_WORDS: Record<ConditionProblem, string> = {
  missing_field: 'a field that it looks at is not there',
  type_mismatch: 'a value is not of the type that it expects',
  too_large: 'the call is too large for it',
  not_boolean: 'it gives neither true nor false',
  failed: 'its evaluation failed',
};

function reasonOf({ rule, problem }: AppliedRule, does: string): string {
  if (problem !== undefined) return `rule ${rule.id} ${does}: its condition cannot be evaluated, ${PROBLEM_WORDS[problem]}`;
  return rule.reason ?? `rule ${rule.id} ${does}`;
}

const isListed = (policy: PolicyFile, { tool }: PolicyCall): boolean => matchesAny(policy.approvals.required_for, tool);

const byId = (a: AppliedRule, b: AppliedRule): number => (a.rule.id < b.rule.id ? -1 : 1);
const firstById = (rules: readonly AppliedRule[]): AppliedRule | undefined => [...rules].sort(byId)[0];

interface Terms {
  readonly quorum: number;
  readonly ttl_seconds: number;
}

/** What holds for a call of this tier while no rule says otherwise. */
function baseTerms({ policy, tier }: Case): Terms {
  const { quorum = policy.approvals.quorum, ttl_seconds = policy.approvals.ttl_seconds } = tierTerms(policy, tier);
  return { quorum, ttl_seconds };
}

/** The rules that ask: largest quorum first, then shortest time. */
function strictestFirst(about: Case): AppliedRule[] {
  const base = baseTerms(about);
  const quorum = ({ rule }: AppliedRule): number => rule.quorum ?? base.quorum;
  const ttl = ({ rule }: AppliedRule): number => rule.ttl_seconds ?? base.ttl_seconds;
  return about.applied.filter(({ effect }) => effect === 'approval_required').sort((a, b) => quorum(b) - quorum(a) || ttl(a) - ttl(b) || byId(a, b));
}

/**
 * Several ask: the largest quorum and the shortest time count, also when they come from different rules. A rule alone may ask
 * for less than `approvals` does, but never for less than its tier.
 */
function termsOf(about: Case): Terms {
  const { policy, call, tier } = about;
  const base = baseTerms(about);
  const asking = strictestFirst(about).map(({ rule }) => ({ quorum: rule.quorum ?? base.quorum, ttl_seconds: rule.ttl_seconds ?? base.ttl_seconds }));
  const { quorum = 1, ttl_seconds = Number.POSITIVE_INFINITY } = tierTerms(policy, tier);
  const floor = asking.length === 0 || isListed(policy, call) || tier === HIGH_TIER ? base : { quorum, ttl_seconds };
  const sources = [...asking, floor];
  return { quorum: Math.max(...sources.map((source) => source.quorum)), ttl_seconds: Math.min(...sources.map((source) => source.ttl_seconds)) };
}
