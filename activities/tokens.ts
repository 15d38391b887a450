/** Does a token count for this request? Signature, binding and ledger, in that order; the first problem names itself. */
import { canDecide } from '../core/approval.ts';
import type { ApprovalClaims } from '../core/contracts.ts';
import { LIMITS } from '../core/words.ts';
import { eventKey, requestFacts } from './call-context.ts';
import type { RequestRow, RunLedger, TokenVerifier, VoteRow } from './ports.ts';

/** A token after its signature was looked at. `claims` only when the signature is one we trust. */
export interface ProvenToken {
  readonly token: string;
  readonly claims: ApprovalClaims | undefined;
  readonly problem: string | undefined;
}

/** Looks at signatures, outside any transaction. */
export async function proveToken(verifier: TokenVerifier, token: string | null): Promise<ProvenToken> {
  if (typeof token !== 'string') return { token: '', claims: undefined, problem: 'malformed' };
  if (token.length > LIMITS.token) return { token: '', claims: undefined, problem: 'too_large' };
  const verified = await verifier.verify(token);
  return verified.ok ? { token, claims: verified.claims, problem: undefined } : { token, claims: undefined, problem: verified.reason };
}

/** The committed decision that a token proves, or the word for why it proves none. */
export function decisionOf(
  request: RequestRow,
  votes: readonly VoteRow[],
  proven: ProvenToken,
  expected: 'approved' | 'denied',
  now: Date,
): { decision: VoteRow } | { problem: string } {
  const { claims } = proven;
  if (!claims) return { problem: proven.problem ?? 'malformed' };
  const unbound = bindingProblem(claims, request);
  if (unbound) return { problem: unbound };
  if (claims.outcome !== expected) return { problem: 'outcome_mismatch' };
  const decision = votes.find((committed) => committed.decision_id === claims.jti);
  if (!decision || decision.token !== proven.token || decision.approver !== claims.sub || decision.outcome !== claims.outcome)
    return { problem: 'not_in_ledger' };
  if (claims.exp !== Number(request.token_exp) || claims.exp * 1000 <= now.getTime()) return { problem: 'token_expired' };
  return mayStillDecide(decision, request) ? { decision } : { problem: 'not_eligible' };
}

/** Asked again at every use: a right that was taken away takes the vote along. */
export function mayStillDecide({ approver, roles }: VoteRow, request: RequestRow): boolean {
  return roles !== null && canDecide({ principal: approver, roles }, request).ok;
}

function bindingProblem(claims: ApprovalClaims, request: RequestRow): string | undefined {
  if (claims.run_id !== request.run_id) return 'other_run';
  if (claims.pending_id !== request.pending_id) return 'other_request';
  if (claims.call_id !== request.call_id) return 'other_call';
  if (claims.tool !== request.tool || claims.tool_hash !== request.tool_hash) return 'other_tool';
  if (claims.args_hash !== request.args_hash) return 'other_arguments';
  return undefined;
}

/** Leaves a `decision_rejected` record; after {@link LIMITS.rejectedRecords} of one request only the counter grows. */
export async function recordRejection(ledger: RunLedger, request: RequestRow, problem: string, detail: string): Promise<void> {
  request.rejected += 1;
  await ledger.updateRequest(request.pending_id, { rejected: request.rejected });
  if (request.rejected > LIMITS.rejectedRecords) return;
  await ledger.append({
    ...requestFacts(request),
    event_key: eventKey(ledger, request.call_id, `decision_rejected/${request.pending_id}/${request.rejected}`),
    outcome: 'decision_rejected',
    reason: problem,
    detail,
  });
}
