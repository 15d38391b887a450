/** {@link RunsOnTemporal} on a Temporal client. */
import { cancelRun, deliverDecision, describeRun, notifyControls, startRegisteredRun, type TemporalClient } from '../client/temporal.ts';
import type { RunFile } from '../core/contracts.ts';
import { makeVisible } from '../core/visible.ts';
import type { RunsOnTemporal } from './ports.ts';

export function runsOnTemporal(client: TemporalClient, taskQueue: string): RunsOnTemporal {
  return {
    namespace: client.options.namespace,
    start: ({ run_id, start_request_id, input }) =>
      startRegisteredRun(client, {
        run_id,
        start_request_id,
        task_queue: taskQueue,
        input,
        summary: summaryOf(input),
        details: detailsOf(input),
      }),
    deliver: (decision) => deliverDecision(client, decision),
    async describe({ run_id, first_execution_id }) {
      return (await describeRun(client, run_id, first_execution_id)) === 'running' ? 'open' : 'gone';
    },
    async cancel(runId) {
      return (await cancelRun(client, runId)) === 'gone' ? 'gone' : 'requested';
    },
    async notifyControls(runId) {
      await notifyControls(client, runId);
    },
  };
}

const LOOKALIKES: Readonly<Record<string, string>> = { '<': '‹', '>': '›', '[': '(', ']': ')' };

/**
 * One line for Temporal Web, at most 200 bytes. It is shown as plain text in one place and rendered, HTML included, in another:
 * what could become a tag, a link, an image or (from a second `$` on) a formula is replaced, because an escape would be seen.
 */
export function summaryOf(input: RunFile): string {
  const line = makeVisible(`${input.agent}: ${input.goal ?? plannerOf(input)}`.slice(0, 201)).replaceAll('\n', ' ');
  const text = line.replaceAll('://', ': //').replace(/(?<=\$.*)\$/g, '＄');
  return cutBytes(
    text.replace(/[<>[\]]/g, (character) => LOOKALIKES[character] ?? ''),
    200,
  );
}

function plannerOf({ planner }: RunFile): string {
  return planner.type === 'module' ? `planner ${planner.name}` : `a script of ${planner.calls.length} calls`;
}

/** Markdown for Temporal Web. What users wrote stands in a code block, where it is text and nothing else. */
function detailsOf(input: RunFile): string {
  const lines = [
    `agent: ${input.agent}`,
    `requester (claimed): ${input.requester}`,
    `planner: ${plannerOf(input)}`,
    ...(input.goal === undefined ? [] : ['', input.goal]),
  ];
  return `    ${cutBytes(makeVisible(lines.join('\n')), 12_000).replaceAll('\n', '\n    ')}`;
}

function cutBytes(text: string, limit: number): string {
  if (Buffer.byteLength(text, 'utf8') <= limit) return text;
  const room = Buffer.from(text, 'utf8').subarray(0, limit - 3);
  // A character cut in half becomes U+FFFD at the end; drop it.
  return `${room.toString('utf8').replace(/\uFFFD$/u, '')}…`;
}
