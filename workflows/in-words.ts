/** What Temporal Web shows of a run. Everything quoted comes from planners and tools, so nothing of it may act as markup. */
import type { PendingView } from '../core/run-contract.ts';
import { type Move, openSlots, type Run } from '../core/run.ts';
import { makeVisible } from '../core/visible.ts';

const SHOWN_REQUESTS = 10;
const LABEL_LENGTH = 60;
const QUOTE_LENGTH = 500;

/** A short plain label: the server refuses long summaries, and a refused command would fail the workflow task. */
export function label(text: string): string {
  const plain = String(text)
    .slice(0, LABEL_LENGTH + 1)
    .replace(/[^\x20-\x7e]/g, '?');
  return plain.length > LABEL_LENGTH ? `${plain.slice(0, LABEL_LENGTH - 1)}~` : plain;
}

/** The run's current details, in Markdown. */
export function detailsOf(run: Run, move: Move): string {
  const open = openSlots(run).map((slot) => slot.standing.request);
  const heading = `Agent ${quote(run.agent)}: ${quote(run.goal)}`;
  if (move.type === 'stop') return `${heading}\n\nStopped: \`${label(move.stop.stop_reason)}\`: ${quote(move.stop.reason)}`;
  if (open.length === 0) return `${heading}\n\n${doing(move)}`;
  const more = open.length > SHOWN_REQUESTS ? [`… and ${open.length - SHOWN_REQUESTS} more requests.`] : [];
  return [heading, 'Waits for people:', ...open.slice(0, SHOWN_REQUESTS).map(requestInWords), ...more].join('\n\n');
}

function doing(move: Move): string {
  if (move.type === 'plan') return `Plans step ${move.step}.`;
  return move.type === 'call' ? `Calls ${quote(move.slot.call.tool)} (${move.slot.call_id}).` : 'Works.';
}

function requestInWords(request: PendingView): string {
  const votes = request.quorum === 1 ? 'one approver' : `${request.quorum} approvers, ${request.missing} still missing`;
  return [
    `**${quote(request.tool)}** asks for approval (\`${label(request.pending_id)}\`, call ${label(request.call_id)})`,
    `- What: ${quote(request.preview)} (worded by the worker; \`holdpoint show\` has the exact arguments)`,
    `- Why: ${quote(request.reason)} (rule ${quote(request.rule)}, tier ${quote(request.tier)})`,
    `- Who: ${votes}; never the run's owner, its requester or the agent`,
    `- Until: ${label(request.expires_at)}. Silence ends it as \`approval_timeout\`, and nothing is executed`,
    `- Answer: \`holdpoint approve ${label(request.pending_id)}\` or \`holdpoint deny ${label(request.pending_id)}\``,
  ].join('\n');
}

/** Text that stays text: no markup, no line breaks, no characters that hide or reorder others. */
function quote(text: string): string {
  return makeVisible(String(text).slice(0, QUOTE_LENGTH))
    .replace(/\n/g, ' ')
    .replace(/&/g, '&amp;')
    .replace(/</g, '&lt;')
    .replace(/[\\`*_{}[\]()#+!|~>-]/g, '\\$&');
}
