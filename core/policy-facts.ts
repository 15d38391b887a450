/** What policy knows of a call: one builder makes it from the ledger's rows, for the gateway and for the decision service alike. */
import type { PolicyFile } from './contracts.ts';
import type { Usage } from './run-contract.ts';

/** A run's own numbers, absent where they are unknown. `tool_calls` counts the other calls: the one in question is never among them. */
export interface RunFacts extends Partial<Usage> {
  readonly run_id: string;
  readonly goal?: string;
}

/**
 * A call as policy sees it. Whatever is absent is unknown: somebody without a name has no role, and a condition that needs
 * what is not there counts as one that cannot be evaluated.
 */
export interface PolicyCall {
  readonly tool: string;
  readonly kind: 'read' | 'write';
  /** False: the API did not start this run. */
  readonly verified: boolean;
  readonly idempotent?: boolean;
  /** What the tool's definition says; `policy.tool_tiers` may say otherwise. */
  readonly tool_tier?: string | undefined;
  readonly agent?: string;
  readonly owner?: string | null;
  readonly requester?: string | null;
  /** As JSON gives them: the value that was hashed. */
  readonly args?: unknown;
  readonly run?: RunFacts;
  /** By the ledger's clock. */
  readonly now?: Date | undefined;
}

/** A name and the roles that the policy file gives it. */
export interface Actor {
  readonly name: string | undefined;
  readonly roles: readonly string[];
}

/** The variables of a condition. */
export interface PolicyFacts {
  readonly args: unknown;
  readonly tool: { readonly name: string; readonly kind: string; readonly idempotent: boolean | undefined };
  readonly agent: Actor;
  readonly owner: Actor | null;
  readonly requester: string | null;
  readonly run: RunFacts | undefined;
  readonly now: Date | undefined;
}

/** Why a condition has no answer. */
export type ConditionProblem = 'missing_field' | 'type_mismatch' | 'too_large' | 'not_boolean' | 'failed';

/** True, false, or why neither. `detail` may quote arguments: it is for people at a screen, never for the audit. */
export type ConditionAnswer = boolean | { readonly problem: ConditionProblem; readonly detail: string };

/** Evaluates conditions over one call's facts. An adapter provides it: no expression language is known here. */
export type Conditions = (facts: PolicyFacts) => (when: string) => ConditionAnswer;

/** Where nothing can be evaluated: every condition is a problem, so its rule asks or denies. */
export const NO_CONDITIONS: Conditions = () => () => ({ problem: 'failed', detail: 'conditions are not evaluated here' });

export function factsOf(policy: PolicyFile, call: PolicyCall): PolicyFacts {
  const owner = call.owner ?? null;
  return {
    args: call.args,
    tool: { name: call.tool, kind: call.kind, idempotent: call.idempotent },
    agent: { name: call.agent, roles: rolesIn(policy.agents, call.agent) },
    owner: owner === null ? null : { name: owner, roles: rolesIn(policy.owners, owner) },
    requester: call.requester ?? null,
    run: call.run,
    now: call.now,
  };
}

/** Own keys only: nobody has a role because of a name such as `constructor`. */
export function rolesIn(section: PolicyFile['agents'], name: string | null | undefined): readonly string[] {
  if (section === undefined || name === undefined || name === null || !Object.hasOwn(section, name)) return [];
  return section[name]?.roles ?? [];
}

/** The ledger's rows about a call. */
export interface CallRows {
  readonly run_id: string;
  readonly run: {
    readonly registered: boolean;
    readonly agent: string;
    readonly owner: string | null;
    readonly requester: string | null;
    readonly goal: string;
    readonly usage: Usage;
  };
  readonly tool: { readonly name: string; readonly kind: 'read' | 'write'; readonly idempotent: boolean; readonly tier: string | undefined };
  /** Undefined: erased, or not the ones that were hashed. */
  readonly args: unknown;
  /** True when the call has its place in the budget already. */
  readonly reserved: boolean;
  readonly now: Date | undefined;
}

export function policyCall({ run_id, run, tool, args, reserved, now }: CallRows): Required<PolicyCall> {
  const { agent, owner, requester, goal, usage } = run;
  const tool_calls = reserved ? Math.max(0, usage.tool_calls - 1) : usage.tool_calls;
  return {
    tool: tool.name,
    kind: tool.kind,
    idempotent: tool.idempotent,
    tool_tier: tool.tier,
    verified: run.registered,
    agent,
    owner,
    requester,
    args,
    run: { run_id, ...(goal === '' ? {} : { goal }), ...usage, tool_calls },
    now,
  };
}

/** False: no rule looks at arguments, usage or the time, so nobody need fetch them. */
export function hasConditions(policy: PolicyFile): boolean {
  return policy.policy.rules.some((rule) => rule.when !== undefined);
}
