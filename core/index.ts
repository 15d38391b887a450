/** The package's `holdpoint/core` entry: contracts, words and the pure rules. Runs anywhere; needs nothing but zod. */
export {
  type ApprovalCommand,
  type ApprovalEvent,
  type ApprovalRefusal,
  type ApprovalState,
  canDecide,
  type CommittedVote,
  decideApproval,
  evolve,
  missingVotes,
  resolutionOf,
} from './approval.ts';
export { type AuditEvent, type AuditFacts, chainEvent, GENESIS, type HashJson, hashMatches } from './audit.ts';
export { type ExhaustedBudget, exhaustedBudget } from './budget.ts';
export { ApprovalClaims, DecisionRequest, PolicyFile, Rule, RunFile, TOKEN_AUDIENCE, TOKEN_ISSUER, TOKEN_TYP } from './contracts.ts';
export { ERROR_TABLE, type ErrorCode, HoldpointError, isHoldpointError } from './errors.ts';
export { matchesTool } from './glob.ts';
export { evaluatePolicy, type PolicyDecision } from './policy.ts';
export type { ConditionAnswer, ConditionProblem, Conditions, PolicyCall, PolicyFacts } from './policy-facts.ts';
export type { CallSummary, PendingView, RunResult, RunState, Stop, Usage } from './run-contract.ts';
export {
  AUDIT_OUTCOMES,
  type AuditOutcome,
  type DecisionOutcome,
  LIMITS,
  type PolicyOutcome,
  type RequestStatus,
  SEARCH_ATTRIBUTES,
  STOP_REASONS,
  type StopReason,
  SYSTEM_RUN,
  UNVERIFIED_AGENT,
} from './words.ts';
