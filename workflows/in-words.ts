/** What Temporal Web shows of a run. Everything quoted comes from planners and tools, so nothing of it may act as markup. */
import { type Move, openSlots, type Run, type WaitingSlot } from '../core/run.ts';
import { label } from '../core/text.ts';
import { makeVisible } from '../core/visible.ts';

const SHOWN_REQUESTS = 10;
const QUOTE_LENGTH = 500;

/** The run's current details, in Markdown. Temporal Web's frame is a little short and hides the end: an empty paragraph stands there. */
export function detailsOf(run: Run, move: Move): string {
  return `${paragraphsOf(run, move)}\n\n\u00a0`;
}

function paragraphsOf(run: Run, move: Move): string {
  const open = openSlots(run);
  const heading = `Agent ${quote(run.agent)}: ${quote(run.goal)}`;
  if (move.type === 'stop') return `${heading}\n\n**Ended: \`${label(move.stop.stop_reason)}\`**\n\n${quote(move.stop.reason)}`;
  if (open.length === 0) return `${heading}\n\n${doing(move)}`;
  const more = open.length > SHOWN_REQUESTS ? [`… and ${open.length - SHOWN_REQUESTS} more requests.`] : [];
  return [heading, ...open.slice(0, SHOWN_REQUESTS).map(requestInWords), ...more].join('\n\n');
}

function doing(move: Move): string {
  if (move.type === 'plan') return `Plans step ${move.step}.`;
  return move.type === 'call' ? `Calls ${quote(move.slot.call.tool)} (${move.slot.call_id}).` : 'Works.';
}

/** Temporal Web takes a list for one only after an empty line. */
function requestInWords({ call, standing: { request } }: WaitingSlot): string {
  const votes = request.quorum === 1 ? 'one approver' : `${request.quorum} approvers, ${request.missing} still missing`;
  const says = call.reason === undefined ? [] : [`- **The agent says**: ${quote(call.reason)}`];
  const id = label(request.pending_id);
  return [
    `**Waits for approval: ${quote(request.tool)}** (call ${label(request.call_id)})`,
    '',
    `- **What**: ${quote(request.preview)} (worded by the worker; \`npx holdpoint show ${id}\` has the exact arguments)`,
    ...says,
    `- **Why it asks**: ${quote(request.reason)} (rule ${quote(request.rule)}, tier ${quote(request.tier)})`,
    `- **Who may answer**: ${votes}; never the run's owner, its requester or the agent`,
    `- **Until**: ${timeInWords(request.expires_at)}. Silence is a no: the request ends as \`approval_timeout\` and nothing is executed`,
    '',
    '```',
    `npx holdpoint approve ${id}`,
    `npx holdpoint deny ${id}`,
    '```',
  ].join('\n');
}

/** `2026-01-31 12:00:00 UTC`; what is no such time is shown as it is. */
function timeInWords(iso: string): string {
  return label(iso).replace(/^(\d{4}-\d{2}-\d{2})T(\d{2}:\d{2}:\d{2})(\.\d+)?Z$/, '$1 $2 UTC');
}

/**
 * Text that stays text: no markup, no line breaks, no characters that hide or reorder others. Beyond CommonMark, Temporal Web
 * makes links of bare addresses (hence `:`), formulas of what stands between two `$`, and fractions of digits around a `/`.
 */
function quote(text: string): string {
  const whole = String(text);
  return makeVisible(whole.length > QUOTE_LENGTH ? `${whole.slice(0, QUOTE_LENGTH - 1)}…` : whole)
    .replace(/\n/g, ' ')
    .replace(/&/g, '&amp;')
    .replace(/[\\`*_{}[\]()#+!|~<>:$-]/g, '\\$&')
    .replace(/(?<=\d)\/(?=\d)/g, '&#47;');
}
