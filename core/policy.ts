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

const DEFAULT_TIER = 'default';

/** `deny` over `approval_required` over `allow`, whatever the order of the file. */
export function evaluatePolicy(policy: PolicyFile, call: PolicyCall): PolicyDecision {
  const { tool_allowlist: allowlist, tool_blocklist: blocklist, rules } = policy.policy;
  const decide = (outcome: PolicyOutcome, rule: string, reason: string, from: Partial<PolicyDecision> = {}): PolicyDecision => ({
    outcome, rule, reason, tier: DEFAULT_TIER, ttl_seconds: policy.approvals.ttl_seconds, quorum: policy.approvals.quorum, ...from,
  });
  if (blocklist.some((pattern) => matchesTool(pattern, call.tool))) return decide('deny', 'policy.tool_blocklist', `${call.tool} is on the blocklist`);
  if (allowlist && !allowlist.some((pattern) => matchesTool(pattern, call.tool))) {
    return decide('deny', 'policy.tool_allowlist', `${call.tool} is not on the allowlist`);
  }
  const matching = rules.filter((rule) => rule.tools.some((pattern) => matchesTool(pattern, call.tool)));
  const denied = matching.find((rule) => rule.effect === 'deny');
  if (denied) return decide('deny', denied.id, denied.reason ?? `rule ${denied.id} denies ${call.tool}`, tierOf(denied));
  const listed = policy.approvals.required_for.some((pattern) => matchesTool(pattern, call.tool));
  if (!call.verified && call.kind === 'write') {
    return decide('approval_required', 'unverified', 'this run was not started through the API: every write asks', strictest(policy, matching, listed));
  }
  const asking = matching.filter((rule) => rule.effect === 'approval_required');
  const [first] = asking;
  if (first) return decide('approval_required', first.id, first.reason ?? `rule ${first.id} asks before ${call.tool}`, { ...tierOf(first), ...strictest(policy, asking, listed) });
  if (listed) return decide('approval_required', 'approvals.required_for', `${call.tool} needs approval`);
  const allowing = matching.find((rule) => rule.effect === 'allow');
  if (allowing) return decide('allow', allowing.id, allowing.reason ?? `rule ${allowing.id} allows ${call.tool}`, tierOf(allowing));
  if (call.kind === 'read') return decide('allow', 'reads', `${call.tool} only reads`);
  if (!policy.writes.require_approval) return decide('allow', 'writes.require_approval', 'writes need no approval');
  return decide('approval_required', 'writes.require_approval', `${call.tool} writes, and no rule lets it through`);
}

function tierOf(rule: Rule): { tier: string } {
  return { tier: rule.tier ?? DEFAULT_TIER };
}

/** Several rules ask: the largest quorum and the shortest time count. */
function strictest(policy: PolicyFile, rules: readonly Rule[], listed: boolean): { quorum: number; ttl_seconds: number } {
  const { quorum, ttl_seconds } = policy.approvals;
  const asking = rules.filter((rule) => rule.effect === 'approval_required');
  const defaults = listed || asking.length === 0 ? [{ quorum, ttl_seconds }] : [];
  return {
    quorum: Math.max(...[...asking, ...defaults].map((from) => from.quorum ?? quorum)),
    ttl_seconds: Math.min(...[...asking, ...defaults].map((from) => from.ttl_seconds ?? ttl_seconds)),
  };
}

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
