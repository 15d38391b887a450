/** Policy: what may happen, what must be asked, what never happens. Pure: the same file and call give the same answer for ever. */
import type { PolicyFile, Rule } from './contracts.ts';
import type { PolicyOutcome } from './words.ts';

/** A call as policy sees it. */
export interface PolicyCall {
  readonly tool: string;
  readonly kind: 'read' | 'write';
  /** False: the API did not start this run. */
  readonly verified: boolean;
}

export interface PolicyDecision {
  readonly outcome: PolicyOutcome;
  /** A sentence for people. */
  readonly reason: string;
  /** What decided: a rule's id or the key of the file. */
  readonly rule: string;
  readonly tier: string;
  readonly ttl_seconds: number;
  readonly quorum: number;
}

type Finding = Pick<PolicyDecision, 'outcome' | 'rule' | 'reason'> & Partial<PolicyDecision>;

const DEFAULT_TIER = 'default';

/** `deny` over `approval_required` over `allow`: the order of rules in the file changes nothing, not even which one is named. */
export function evaluatePolicy(policy: PolicyFile, call: PolicyCall): PolicyDecision {
  const { ttl_seconds, quorum } = policy.approvals;
  const matching = policy.policy.rules.filter((rule) => matchesAny(rule.tools, call.tool));
  const finding =
    outsideScope(policy, call) ??
    deniedBy(matching, call) ??
    askedBecauseUnverified(policy, matching, call) ??
    askedBy(policy, matching, call) ??
    allowedBy(matching, call) ??
    decidedByKind(policy, call) ??
    ({ outcome: 'deny', rule: 'policy', reason: `policy has no answer for ${call.tool}` } as const);
  return { tier: DEFAULT_TIER, ttl_seconds, quorum, ...finding };
}

function outsideScope(policy: PolicyFile, { tool }: PolicyCall): Finding | undefined {
  const { tool_allowlist: allowlist, tool_blocklist: blocklist } = policy.policy;
  if (matchesAny(blocklist, tool)) return { outcome: 'deny', rule: 'policy.tool_blocklist', reason: `${tool} is on the blocklist` };
  if (allowlist && !matchesAny(allowlist, tool)) return { outcome: 'deny', rule: 'policy.tool_allowlist', reason: `${tool} is not on the allowlist` };
  return undefined;
}

/** A rule whose effect is none of the two that let a call live is a refusal, whatever it says. */
function deniedBy(matching: readonly Rule[], { tool }: PolicyCall): Finding | undefined {
  const rule = firstById(matching.filter(({ effect }) => effect !== 'approval_required' && effect !== 'allow'));
  return rule && { outcome: 'deny', rule: rule.id, reason: rule.reason ?? `rule ${rule.id} denies ${tool}`, ...tierOf(rule) };
}

function askedBecauseUnverified(policy: PolicyFile, matching: readonly Rule[], call: PolicyCall): Finding | undefined {
  if (call.verified || call.kind === 'read') return undefined;
  const reason = 'this run was not started through the API: every write asks';
  return { outcome: 'approval_required', rule: 'unverified', reason, ...strictest(policy, matching, call) };
}

function askedBy(policy: PolicyFile, matching: readonly Rule[], call: PolicyCall): Finding | undefined {
  const { tool } = call;
  const rule = strictestFirst(policy, matching)[0];
  if (rule) {
    const reason = rule.reason ?? `rule ${rule.id} asks before ${tool}`;
    return { outcome: 'approval_required', rule: rule.id, reason, ...strictest(policy, matching, call) };
  }
  if (!isListed(policy, call)) return undefined;
  return { outcome: 'approval_required', rule: 'approvals.required_for', reason: `${tool} needs approval` };
}

function allowedBy(matching: readonly Rule[], { tool }: PolicyCall): Finding | undefined {
  const rule = firstById(matching.filter(({ effect }) => effect === 'allow'));
  return rule && { outcome: 'allow', rule: rule.id, reason: rule.reason ?? `rule ${rule.id} allows ${tool}`, ...tierOf(rule) };
}

/** No rule speaks of this tool. */
function decidedByKind({ writes }: PolicyFile, { tool, kind }: PolicyCall): Finding | undefined {
  if (kind === 'read') return { outcome: 'allow', rule: 'reads', reason: `${tool} only reads` };
  if (kind !== 'write') return undefined;
  const rule = 'writes.require_approval';
  if (writes.require_approval === false) return { outcome: 'allow', rule, reason: 'writes need no approval' };
  return { outcome: 'approval_required', rule, reason: `${tool} writes, and no rule lets it through` };
}

const isListed = (policy: PolicyFile, { tool }: PolicyCall): boolean => matchesAny(policy.approvals.required_for, tool);

const tierOf = (rule: Rule): { tier: string } => ({ tier: rule.tier ?? DEFAULT_TIER });

const byId = (a: Rule, b: Rule): number => (a.id < b.id ? -1 : 1);
const firstById = (rules: readonly Rule[]): Rule | undefined => [...rules].sort(byId)[0];

/** The rules that ask: largest quorum first, then shortest time. */
function strictestFirst({ approvals }: PolicyFile, matching: readonly Rule[]): Rule[] {
  const quorum = (rule: Rule): number => rule.quorum ?? approvals.quorum;
  const ttl = (rule: Rule): number => rule.ttl_seconds ?? approvals.ttl_seconds;
  return matching.filter(({ effect }) => effect === 'approval_required').sort((a, b) => quorum(b) - quorum(a) || ttl(a) - ttl(b) || byId(a, b));
}

/** Several ask: the largest quorum and the shortest time count, also when they come from different rules. */
function strictest(policy: PolicyFile, matching: readonly Rule[], call: PolicyCall): Pick<PolicyDecision, 'tier' | 'quorum' | 'ttl_seconds'> {
  const { quorum, ttl_seconds } = policy.approvals;
  const asking = strictestFirst(policy, matching);
  const [first] = asking;
  const sources: readonly Partial<Rule>[] = isListed(policy, call) || !first ? [...asking, {}] : asking;
  return {
    tier: first?.tier ?? DEFAULT_TIER,
    quorum: Math.max(...sources.map((source) => source.quorum ?? quorum)),
    ttl_seconds: Math.min(...sources.map((source) => source.ttl_seconds ?? ttl_seconds)),
  };
}

const matchesAny = (patterns: readonly string[], tool: string): boolean => patterns.some((pattern) => matchesTool(pattern, tool));

/** `*` stands for any run of characters. Linear in both lengths: no expression is built from a file. */
export function matchesTool(pattern: string, tool: string): boolean {
  const parts = pattern.split('*');
  const [head = ''] = parts;
  const tail = parts.at(-1) ?? '';
  if (parts.length === 1) return pattern === tool;
  if (!tool.startsWith(head) || !tool.endsWith(tail) || tool.length < head.length + tail.length) return false;
  let at = head.length;
  const end = tool.length - tail.length;
  for (const part of parts.slice(1, -1)) {
    const found = tool.indexOf(part, at);
    if (found < 0 || found + part.length > end) return false;
    at = found + part.length;
  }
  return true;
}
