/**
 * The approval request as a state machine. `decideApproval` says what a command does to a state (events, or a typed
 * refusal), `evolve` folds events into states. May somebody speak (`canDecide`) is apart from does it resolve
 * (`resolutionOf`). Time comes in; nothing here reads a clock.
 */
import { assertNever } from './errors.ts';
import type { DecisionOutcome, RequestStatus } from './words.ts';

/** A vote that the ledger has committed. */
export interface CommittedVote {
  decision_id: string;
  approver: string;
  outcome: DecisionOutcome;
}

export type ApprovalState =
  | { status: 'open'; quorum: number; expiresAt: Date; votes: readonly CommittedVote[] }
  | { status: Exclude<RequestStatus, 'open'>; votes: readonly CommittedVote[] };

export type ApprovalCommand =
  /** A person decides. `decision_id` is the new vote's. */
  | { type: 'decide'; vote: CommittedVote }
  /** The timer fired. */
  | { type: 'deadline' }
  /** The run ended or was cancelled, or is gone. */
  | { type: 'cancel' }
  /** The tool's definition changed: what was approved is no longer what would run. */
  | { type: 'supersede' }
  /** The policy now asks for this many votes. */
  | { type: 'require'; quorum: number };

export type ApprovalEvent =
  | { type: 'vote_recorded'; vote: CommittedVote }
  | { type: 'approval_granted'; vote: CommittedVote }
  | { type: 'approval_denied'; vote: CommittedVote }
  | { type: 'approval_timeout' }
  | { type: 'approval_cancelled' }
  | { type: 'request_superseded' }
  | { type: 'quorum_raised'; quorum: number };

/** Why a command changes nothing. */
export type ApprovalRefusal = { refused: 'already_decided' | 'decision_conflict' | 'decision_late' | 'request_closed' | 'too_early'; first?: CommittedVote };

/** Votes needed for a grant and missing for it. */
export function missingVotes(votes: readonly CommittedVote[], quorum: number): number {
  const people = new Set(votes.filter((vote) => vote.outcome === 'approved').map((vote) => vote.approver));
  return Math.max(0, quorum - people.size);
}

/** What a set of votes amounts to: one denial denies, a full quorum of different people grants, anything else is open. */
export function resolutionOf(votes: readonly CommittedVote[], quorum: number): 'denied' | 'approved' | 'open' {
  if (votes.some((vote) => vote.outcome === 'denied')) return 'denied';
  return missingVotes(votes, quorum) === 0 ? 'approved' : 'open';
}

/** Who may speak on a request at all. `reason` names the rule. */
export function canDecide(
  approver: { principal: string; roles: readonly string[] },
  request: { owner: string | null; requester: string | null; agent: string },
): { ok: true } | { ok: false; reason: string } {
  if (isSame(approver.principal, request.owner)) return { ok: false, reason: 'the owner of the run cannot decide about it' };
  if (isSame(approver.principal, request.requester)) return { ok: false, reason: 'the requester cannot decide about their own request' };
  if (isSame(approver.principal, request.agent)) return { ok: false, reason: 'the agent cannot decide about its own call' };
  if (!approver.roles.includes('approver')) return { ok: false, reason: 'the role approver is missing' };
  return { ok: true };
}

/** Requesters are free text: another capital or width must not make another person of somebody. */
const isSame = (principal: string, other: string | null): boolean => other !== null && folded(principal) === folded(other);
const folded = (name: string): string => name.normalize('NFKC').trim().toLowerCase();

/** What `command` does to `state` at `now`. The deadline itself is too late. */
export function decideApproval(command: ApprovalCommand, state: ApprovalState, now: Date): ApprovalEvent[] | ApprovalRefusal {
  switch (command.type) {
    case 'decide':
      return recordVote(command.vote, state, now);
    case 'deadline':
      if (state.status !== 'open') return { refused: 'request_closed' };
      // A quorum that was complete in time, or a denial, is never closed as timed out, however late the timer.
      if (resolutionOf(state.votes, state.quorum) !== 'open') return { refused: 'already_decided' };
      return now < state.expiresAt ? { refused: 'too_early' } : [{ type: 'approval_timeout' }];
    case 'cancel':
      return state.status === 'open' || state.status === 'approved' ? [{ type: 'approval_cancelled' }] : { refused: 'request_closed' };
    case 'supersede':
      return state.status === 'open' || state.status === 'approved' ? [{ type: 'request_superseded' }] : { refused: 'request_closed' };
    case 'require':
      if (state.status !== 'open' && state.status !== 'approved') return { refused: 'request_closed' };
      return [{ type: 'quorum_raised', quorum: command.quorum }];
    default:
      return assertNever(command, 'approval command');
  }
}

function recordVote(vote: CommittedVote, state: ApprovalState, now: Date): ApprovalEvent[] | ApprovalRefusal {
  const own = state.votes.find((other) => other.approver === vote.approver);
  if (own) return { refused: own.outcome === vote.outcome ? 'already_decided' : 'decision_conflict', first: own };
  if (state.status !== 'open') {
    if (state.status === 'timed_out') return { refused: 'decision_late' };
    const first = state.votes.at(-1);
    return first ? { refused: 'decision_conflict', first } : { refused: 'request_closed' };
  }
  if (now >= state.expiresAt) return { refused: 'decision_late' };
  const resolution = resolutionOf([...state.votes, vote], state.quorum);
  if (resolution === 'denied') return [{ type: 'approval_denied', vote }];
  if (resolution === 'approved') return [{ type: 'approval_granted', vote }];
  return [{ type: 'vote_recorded', vote }];
}

/** Folds an event into a state. */
export function evolve(state: ApprovalState, event: ApprovalEvent, expiresAt: Date): ApprovalState {
  switch (event.type) {
    case 'vote_recorded':
      return state.status === 'open' ? { ...state, votes: [...state.votes, event.vote] } : state;
    case 'approval_granted':
      return { status: 'approved', votes: [...state.votes, event.vote] };
    case 'approval_denied':
      return { status: 'denied', votes: [...state.votes, event.vote] };
    case 'approval_timeout':
      return { status: 'timed_out', votes: state.votes };
    case 'approval_cancelled':
      return { status: 'cancelled', votes: state.votes };
    case 'request_superseded':
      return { status: 'superseded', votes: state.votes };
    case 'quorum_raised':
      return { status: 'open', quorum: event.quorum, expiresAt, votes: state.votes };
    default:
      return assertNever(event, 'approval event');
  }
}
