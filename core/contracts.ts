/** Everything that crosses a process from outside, as zod schemas and the types inferred from them. */
import { z } from 'zod';
import { isStorable } from './text.ts';
import { LIMITS } from './words.ts';

const text = z.string().max(LIMITS.text).refine(isStorable, 'no NUL and no lone surrogate');
const name = z.string().min(1).max(200).refine(isStorable, 'no NUL and no lone surrogate');

/** A tool name, or a glob in which `*` stands for any run of characters: `crm.*`. */
export const ToolPattern = z
  .string()
  .min(1)
  .max(200)
  .regex(/^[A-Za-z0-9_.:*/-]+$/, 'a tool name or glob such as "crm.*"');

/** Tool, planner and tier names: what `__proto__` and control characters are not. */
export const Identifier = z
  .string()
  .min(1)
  .max(120)
  .regex(/^[A-Za-z][A-Za-z0-9_.:/-]*$/, 'letters, digits and . _ : / -, starting with a letter');

const TtlSeconds = z.int().min(1).max(31_536_000);

const Quorum = z.int().min(1).max(20);

/** Longest condition, in characters. */
const MAX_CONDITION = 2_000;

/** One rule of the policy. `when` is CEL; it is parsed where the file is loaded. */
export const Rule = z.strictObject({
  id: Identifier,
  tools: z.array(ToolPattern).min(1),
  when: z.string().min(1).max(MAX_CONDITION).optional(),
  agent_roles: z.array(Identifier).min(1).optional(),
  owner_roles: z.array(Identifier).min(1).optional(),
  effect: z.enum(['allow', 'deny', 'approval_required']),
  tier: Identifier.optional(),
  ttl_seconds: TtlSeconds.optional(),
  quorum: Quorum.optional(),
  reason: text.optional(),
});
export type Rule = z.infer<typeof Rule>;

/** `holdpoint.yaml`. Unknown keys are refused; an absent key has the default given here. */
export const PolicyFile = z.strictObject({
  version: z.literal(1).default(1),
  approvals: z
    .strictObject({
      required_for: z.array(ToolPattern).default([]),
      ttl_seconds: TtlSeconds.default(300),
      execute_within_seconds: TtlSeconds.default(86_400),
      quorum: Quorum.default(1),
      repeat_refusal_limit: z.int().min(0).default(3),
      fallback_when_not_approved: z.enum(['stop', 'continue']).default('stop'),
    })
    .prefault({}),
  budgets: z
    .strictObject({
      max_steps: z.int().min(1).optional(),
      max_tool_calls: z.int().min(1).optional(),
      max_seconds: z.number().positive().optional(),
      max_usd: z.number().positive().optional(),
    })
    .prefault({}),
  policy: z
    .strictObject({
      tool_allowlist: z.array(ToolPattern).optional(),
      tool_blocklist: z.array(ToolPattern).default([]),
      rules: z.array(Rule).default([]),
      tool_tiers: z.record(ToolPattern, Identifier).optional(),
      role_tools: z.record(Identifier, z.array(ToolPattern)).optional(),
    })
    .prefault({}),
  writes: z.strictObject({ require_approval: z.boolean().default(true), idempotency: z.boolean().default(true) }).prefault({}),
  controls: z.strictObject({ kill_switch: z.strictObject({ enabled: z.boolean().default(true) }).prefault({}) }).prefault({}),
  tiers: z.record(Identifier, z.strictObject({ ttl_seconds: TtlSeconds.optional(), quorum: Quorum.optional() })).optional(),
  agents: z.record(Identifier, z.strictObject({ roles: z.array(Identifier) })).optional(),
  owners: z.record(Identifier, z.strictObject({ roles: z.array(Identifier) })).optional(),
  tools: z.array(z.string().min(1)).default([]),
  planners: z.record(Identifier, z.string().min(1)).default({}),
});
export type PolicyFile = z.infer<typeof PolicyFile>;

/** One scripted call of a run file. */
export const ScriptedCall = z.strictObject({ tool: z.string().min(1).max(200), args: z.unknown().default({}), reason: text.optional() });

/** What starts a run: the file of `holdpoint run`, the body of `POST /v1/runs` and the argument of `agentRun`. */
export const RunFile = z.strictObject({
  agent: Identifier,
  requester: name,
  goal: text.optional(),
  planner: z.discriminatedUnion('type', [
    z.strictObject({ type: z.literal('script'), calls: z.array(ScriptedCall).max(10_000) }),
    z.strictObject({ type: z.literal('module'), name: Identifier }),
  ]),
  /** Can only shorten the policy's. */
  ttl_seconds: TtlSeconds.optional(),
});
export type RunFile = z.infer<typeof RunFile>;

/** Bounded, so that no sum of them is more than a number can hold. */
const PlannerUsage = z.strictObject({ usd: z.number().min(0).max(1_000_000_000).optional(), tokens: z.int().min(0).optional() });

/** What a planner may answer. Never trusted: this is where it is read. */
export const PlannerAnswer = z.union([
  z.strictObject({
    calls: z
      .array(z.strictObject({ tool: z.string().max(200), args: z.unknown(), reason: text.optional() }))
      .min(1)
      .max(LIMITS.callsPerStep),
    usage: PlannerUsage.optional(),
  }),
  z.strictObject({
    done: z.union([z.boolean(), z.string()]),
    usage: PlannerUsage.optional(),
  }),
]);
export type PlannerAnswer = z.infer<typeof PlannerAnswer>;

/** Claims of an approval token, a compact JWS with `alg: Ed25519`, `typ: approval+jwt`. Times `iat`, `exp` are seconds since the epoch. */
export const ApprovalClaims = z.strictObject({
  iss: name,
  aud: name,
  sub: name,
  jti: z.string().min(1).max(80),
  iat: z.int(),
  exp: z.int(),
  run_id: name,
  pending_id: name,
  call_id: name,
  tool: name,
  tool_hash: name,
  args_hash: name,
  policy_hash: name,
  outcome: z.enum(['approved', 'denied']),
  decided_at: z.iso.datetime(),
});
export type ApprovalClaims = z.infer<typeof ApprovalClaims>;

/** `iss` and `aud` of our tokens. */
export const TOKEN_ISSUER = 'holdpoint';
export const TOKEN_AUDIENCE = 'holdpoint-gateway';
export const TOKEN_TYP = 'approval+jwt';

/** Body of `POST /v1/approvals/{pending_id}/decision`. */
export const DecisionRequest = z.strictObject({ outcome: z.enum(['approved', 'denied']), reason: text.optional() });
export type DecisionRequest = z.infer<typeof DecisionRequest>;

/** Body of `POST /v1/controls`. At most one of `agent` and `tool`; neither = everything. */
export const ControlRequest = z
  .strictObject({ engaged: z.boolean(), agent: Identifier.optional(), tool: Identifier.optional(), reason: text.optional() })
  .refine((body) => !(body.agent !== undefined && body.tool !== undefined), 'give agent or tool, not both');
export type ControlRequest = z.infer<typeof ControlRequest>;

/** A line of the identities file that `serve` reads at start: who may do what, with which API key. */
export const Identity = z.strictObject({
  principal: Identifier,
  roles: z.array(z.enum(['operator', 'approver', 'auditor'])).min(1),
  /** Hex SHA-256 of the API key; the key itself is with its holder only. */
  key_sha256: z.string().regex(/^[0-9a-f]{64}$/),
});
export const IdentitiesFile = z.strictObject({ identities: z.array(Identity) });
export type Identity = z.infer<typeof Identity>;
export type Role = Identity['roles'][number];
