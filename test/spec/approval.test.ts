import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
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
} from '../../core/approval.ts';

const DEADLINE = new Date('2026-03-01T12:00:00.000Z');
const BEFORE = new Date(DEADLINE.getTime() - 1);
const AFTER = new Date(DEADLINE.getTime() + 60_000);

const vote = (approver: string, outcome: 'approved' | 'denied' = 'approved'): CommittedVote => ({
  decision_id: `dec_${approver}_${outcome}`,
  approver,
  outcome,
});
const open = (quorum: number, ...votes: CommittedVote[]): ApprovalState => ({ status: 'open', quorum, expiresAt: DEADLINE, votes });
const closed = (status: Exclude<ApprovalState['status'], 'open'>, ...votes: CommittedVote[]): ApprovalState => ({ status, votes });
const decides = (approver: string, outcome: 'approved' | 'denied' = 'approved'): ApprovalCommand => ({ type: 'decide', vote: vote(approver, outcome) });

/** given a state, when a command comes at a time, then these events or this refusal. */
const given = (state: ApprovalState) => ({
  when: (command: ApprovalCommand, now = BEFORE) => ({
    then: (expected: ApprovalEvent[] | ApprovalRefusal) => expect(decideApproval(command, state, now)).toEqual(expected),
  }),
});

describe('an open request', () => {
  test('is granted by the vote that completes the quorum', () => {
    given(open(1))
      .when(decides('alice'))
      .then([{ type: 'approval_granted', vote: vote('alice') }]);
    given(open(2, vote('alice')))
      .when(decides('bob'))
      .then([{ type: 'approval_granted', vote: vote('bob') }]);
  });

  test('records a vote that leaves others missing', () => {
    given(open(2))
      .when(decides('alice'))
      .then([{ type: 'vote_recorded', vote: vote('alice') }]);
  });

  test('is denied by one denial, whoever has approved before', () => {
    given(open(3, vote('alice'), vote('bob')))
      .when(decides('carol', 'denied'))
      .then([{ type: 'approval_denied', vote: vote('carol', 'denied') }]);
  });

  test('answers the same vote of the same person with the vote it has', () => {
    given(open(2, vote('alice')))
      .when(decides('alice'))
      .then({ refused: 'already_decided', first: vote('alice') });
  });

  test('does not let a person change their mind', () => {
    given(open(2, vote('alice')))
      .when(decides('alice', 'denied'))
      .then({ refused: 'decision_conflict', first: vote('alice') });
  });

  test('takes a vote one millisecond before the deadline and none at the deadline', () => {
    given(open(1))
      .when(decides('alice'), BEFORE)
      .then([{ type: 'approval_granted', vote: vote('alice') }]);
    given(open(1)).when(decides('alice'), DEADLINE).then({ refused: 'decision_late' });
    given(open(1)).when(decides('alice', 'denied'), AFTER).then({ refused: 'decision_late' });
  });

  test('times out at the deadline and not before', () => {
    given(open(1)).when({ type: 'deadline' }, BEFORE).then({ refused: 'too_early' });
    given(open(1))
      .when({ type: 'deadline' }, DEADLINE)
      .then([{ type: 'approval_timeout' }]);
    given(open(2, vote('alice')))
      .when({ type: 'deadline' }, AFTER)
      .then([{ type: 'approval_timeout' }]);
  });

  test('that committed votes resolve is never timed out, however late the timer', () => {
    given(open(1, vote('alice')))
      .when({ type: 'deadline' }, AFTER)
      .then({ refused: 'already_decided' });
    given(open(2, vote('alice', 'denied')))
      .when({ type: 'deadline' }, AFTER)
      .then({ refused: 'already_decided' });
  });

  test('can be cancelled, superseded and asked for more votes', () => {
    given(open(1))
      .when({ type: 'cancel' })
      .then([{ type: 'approval_cancelled' }]);
    given(open(1))
      .when({ type: 'supersede' })
      .then([{ type: 'request_superseded' }]);
    given(open(1))
      .when({ type: 'require', quorum: 2 })
      .then([{ type: 'quorum_raised', quorum: 2 }]);
  });
});

describe('an approved request', () => {
  const approved = closed('approved', vote('alice'));

  test('can still be cancelled, superseded and asked for more votes before it executes', () => {
    given(approved)
      .when({ type: 'cancel' })
      .then([{ type: 'approval_cancelled' }]);
    given(approved)
      .when({ type: 'supersede' })
      .then([{ type: 'request_superseded' }]);
    given(approved)
      .when({ type: 'require', quorum: 2 })
      .then([{ type: 'quorum_raised', quorum: 2 }]);
  });

  test('that needs more votes is open again under its old deadline, with the votes it has', () => {
    expect(evolve(approved, { type: 'quorum_raised', quorum: 2 }, DEADLINE)).toEqual(open(2, vote('alice')));
  });

  test('takes no vote and no timer', () => {
    given(approved)
      .when(decides('alice'))
      .then({ refused: 'already_decided', first: vote('alice') });
    given(approved)
      .when(decides('alice', 'denied'))
      .then({ refused: 'decision_conflict', first: vote('alice') });
    given(approved)
      .when(decides('bob', 'denied'))
      .then({ refused: 'decision_conflict', first: vote('alice') });
    given(approved).when({ type: 'deadline' }, AFTER).then({ refused: 'request_closed' });
  });
});

describe('a request that has ended', () => {
  const ended: ApprovalState[] = [closed('denied', vote('alice', 'denied')), closed('timed_out'), closed('cancelled'), closed('superseded')];
  const housekeeping: ApprovalCommand[] = [{ type: 'deadline' }, { type: 'cancel' }, { type: 'supersede' }, { type: 'require', quorum: 5 }];

  test.each(ended.map((state) => [state.status, state] as const))('%s stays so, whatever the run or the timer says', (_status, state) => {
    for (const command of housekeeping) given(state).when(command, AFTER).then({ refused: 'request_closed' });
  });

  test('names the first decision, the deadline or the closing to a vote that comes after', () => {
    given(closed('denied', vote('alice', 'denied')))
      .when(decides('bob'))
      .then({ refused: 'decision_conflict', first: vote('alice', 'denied') });
    given(closed('denied', vote('alice', 'denied')))
      .when(decides('alice', 'denied'))
      .then({ refused: 'already_decided', first: vote('alice', 'denied') });
    given(closed('timed_out')).when(decides('bob'), AFTER).then({ refused: 'decision_late' });
    given(closed('cancelled')).when(decides('bob')).then({ refused: 'request_closed' });
    given(closed('superseded')).when(decides('bob')).then({ refused: 'request_closed' });
  });
});

describe('who may decide', () => {
  const request = { owner: 'olga', requester: 'rita', agent: 'support' };

  test.each([['olga'], ['rita'], ['support']])('%s is part of the run and never counts, with any role', (principal) => {
    expect(canDecide({ principal, roles: ['approver', 'operator', 'admin'] }, request)).toMatchObject({ ok: false });
  });

  test('a stranger without the role approver may not', () => {
    expect(canDecide({ principal: 'eve', roles: ['operator'] }, request)).toEqual({ ok: false, reason: 'the role approver is missing' });
  });

  test('an approver who is not part of the run may', () => {
    expect(canDecide({ principal: 'alice', roles: ['approver'] }, request)).toEqual({ ok: true });
    expect(canDecide({ principal: 'alice', roles: ['approver'] }, { owner: null, requester: null, agent: 'unverified' })).toEqual({ ok: true });
  });
});

describe('every sequence of commands', () => {
  const people = fc.constantFrom('alice', 'bob', 'carol', 'dave');
  const command: fc.Arbitrary<ApprovalCommand> = fc.oneof(
    {
      weight: 6,
      arbitrary: fc
        .record({ approver: people, outcome: fc.constantFrom('approved' as const, 'approved' as const, 'denied' as const) })
        .map(({ approver, outcome }) => decides(approver, outcome)),
    },
    { weight: 1, arbitrary: fc.constantFrom<ApprovalCommand>({ type: 'deadline' }, { type: 'cancel' }, { type: 'supersede' }) },
    { weight: 1, arbitrary: fc.integer({ min: 1, max: 4 }).map((quorum): ApprovalCommand => ({ type: 'require', quorum })) },
  );
  const moment = fc.integer({ min: -3, max: 3 }).map((ms) => new Date(DEADLINE.getTime() + ms));
  const story = fc.array(fc.record({ command, now: moment }), { maxLength: 25 });

  /** Plays a story, showing each state with the one before. */
  const play = (
    quorum: number,
    commands: readonly { command: ApprovalCommand; now: Date }[],
    see: (step: { before: ApprovalState; after: ApprovalState; command: ApprovalCommand; now: Date }) => void,
  ): ApprovalState => {
    let state: ApprovalState = open(quorum);
    for (const { command: next, now } of commands) {
      const before = state;
      const answer = decideApproval(next, state, now);
      if (Array.isArray(answer)) state = answer.reduce((at, event) => evolve(at, event, DEADLINE), state);
      see({ before, after: state, command: next, now });
    }
    return state;
  };
  const supporters = (state: ApprovalState): number =>
    new Set(state.votes.filter(({ outcome }) => outcome === 'approved').map(({ approver }) => approver)).size;

  test('reaches approved only with as many different approvers as the quorum asks', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), story, (quorum, commands) => {
        play(quorum, commands, ({ before, after }) => {
          if (before.status !== 'open' || after.status !== 'approved') return;
          expect(supporters(after)).toBeGreaterThanOrEqual(before.quorum);
          expect(after.votes.every(({ outcome }) => outcome === 'approved')).toBe(true);
        });
      }),
    );
  });

  test('leaves the state as it was when a vote is late', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), story, (quorum, commands) => {
        play(quorum, commands, ({ before, after, command: sent, now }) => {
          if (sent.type === 'decide' && now >= DEADLINE) expect(after).toEqual(before);
        });
      }),
    );
  });

  test('counts one vote for each person', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), story, (quorum, commands) => {
        const end = play(quorum, commands, () => {});
        expect(new Set(end.votes.map(({ approver }) => approver)).size).toBe(end.votes.length);
      }),
    );
  });

  test('never leaves denied, timed out, cancelled or superseded again', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), story, (quorum, commands) => {
        play(quorum, commands, ({ before, after }) => {
          if (before.status !== 'open' && before.status !== 'approved') expect(after).toEqual(before);
        });
      }),
    );
  });

  test('with a denial in time ends as denied, unless it had ended before', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 4 }), story, (quorum, commands) => {
        play(quorum, commands, ({ before, after, command: sent, now }) => {
          if (sent.type !== 'decide' || sent.vote.outcome !== 'denied' || before.status !== 'open' || now >= DEADLINE) return;
          const spokeBefore = before.votes.some(({ approver }) => approver === sent.vote.approver);
          expect(after.status).toBe(spokeBefore ? 'open' : 'denied');
        });
      }),
    );
  });
});

describe('counting votes', () => {
  test('two rows of one person are one vote', () => {
    const twice = [vote('alice'), { ...vote('alice'), decision_id: 'dec_other' }];
    expect(missingVotes(twice, 2)).toBe(1);
    expect(resolutionOf(twice, 2)).toBe('open');
  });

  test('a denial is no vote for the quorum and denies even beside a full one', () => {
    expect(missingVotes([vote('alice'), vote('bob', 'denied')], 2)).toBe(1);
    expect(resolutionOf([vote('alice'), vote('carol'), vote('bob', 'denied')], 2)).toBe('denied');
  });
});
