import { expect, test } from 'vitest';
import type { Move, Run } from '../../core/run.ts';
import { summaryOf } from '../../server/temporal-runs.ts';
import { detailsOf } from '../../workflows/in-words.ts';

const planning: Move = { type: 'plan', step: 1 };
const runOf = (goal: string, slots: unknown[] = []): Run => ({ agent: 'bot', goal, slots }) as unknown as Run;

test.each([
  ['[here](https://evil.example)', String.raw`\[here\]\(https\://evil.example\)`],
  ['https://evil.example', String.raw`https\://evil.example`],
  ['<img src=x>', String.raw`\<img src=x\>`],
  ['costs $5, not $6', String.raw`costs \$5, not \$6`],
  ['1/2 of it', '1&#47;2 of it'],
  ['two\n# lines', String.raw`two \# lines`],
])('in the details of a run %j is text and nothing else', (goal, shown) => {
  expect(detailsOf(runOf(goal), planning)).toContain(`Agent bot: ${shown}\n`);
});

test('text that is too long to be shown ends in a mark', () => {
  expect(detailsOf(runOf('a'.repeat(501)), planning)).toContain(`${'a'.repeat(499)}…\n`);
});

test('a request is told as a list after an empty line, with what the agent says and commands to copy', () => {
  const request = {
    pending_id: 'apr_1_1',
    call_id: '1.1',
    tool: 'email.send',
    preview: 'Send mail',
    reason: 'needs approval',
    rule: 'r',
    tier: 'default',
    quorum: 1,
    missing: 1,
    expires_at: '2026-01-31T12:00:00.123Z',
  };
  const slot = { call_id: '1.1', call: { tool: 'email.send', args: {}, reason: 'it qualifies' }, standing: { at: 'waiting', request, deadline: 0 } };
  const details = detailsOf(runOf('to test', [slot]), { type: 'wait' });
  expect(details).toContain('\n\n- **What**: Send mail (');
  expect(details).toContain('\n- **The agent says**: it qualifies\n');
  expect(details).toContain('\n- **Until**: 2026-01-31 12:00:00 UTC. ');
  expect(details).toContain('\n\n```\nnpx holdpoint approve apr_1_1\nnpx holdpoint deny apr_1_1\n```');
});

test('the one line that Temporal Web renders as a page holds no tag, link, image or formula', () => {
  const goal = '<script>x</script> ![t](http://track.example/a.png) $1 $2';
  const summary = summaryOf({ agent: 'bot', requester: 'ada', goal, planner: { type: 'script', calls: [] } } as never);
  expect(summary).toBe('bot: ‹script›x‹/script› !(t)(http: //track.example/a.png) $1 ＄2');
});
