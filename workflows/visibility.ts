/** Search attributes and current details. Where the namespace lacks the attributes they are left out: upserting an unknown one wedges a run. */
import { setCurrentDetails, upsertSearchAttributes, workflowInfo } from '@temporalio/workflow';
import type { Move, Run } from '../core/run.ts';
import { label } from '../core/text.ts';
import { SEARCH_ATTRIBUTES } from '../core/words.ts';
import { detailsOf } from './in-words.ts';

const STATUS = { name: SEARCH_ATTRIBUTES.status, type: 'KEYWORD' } as const;
const AGENT = { name: SEARCH_ATTRIBUTES.agent, type: 'KEYWORD' } as const;
const STOP_REASON = { name: SEARCH_ATTRIBUTES.stopReason, type: 'KEYWORD' } as const;

type Status = 'running' | 'waiting' | 'stopped';

export interface Signboard {
  /**
   * Tells viewers what the run does next. Called right before the move, so that an upsert rides in the workflow task of
   * the move's own command. Repeating a status costs nothing.
   */
  show(run: Run, move: Move): void;
}

export function createSignboard(): Signboard {
  // A run that the API started on a namespace with our attributes has them from the start, which costs nothing.
  const { typedSearchAttributes, continuedFromExecutionRunId: continued } = workflowInfo();
  const given = typedSearchAttributes.get(STATUS) !== undefined;
  // What a continued execution was given is what the one before it showed last.
  let shown: Status | undefined = given && continued === undefined ? 'running' : undefined;
  let ended: string | undefined;
  return {
    show(run, move) {
      setCurrentDetails(detailsOf(run, move));
      const status = statusOf(move) ?? shown ?? 'running';
      const reason = move.type === 'stop' ? move.stop.stop_reason : undefined;
      if (!(given || run.search_attributes) || (status === shown && reason === ended)) return;
      upsertSearchAttributes([
        { key: STATUS, value: status },
        ...(shown === undefined ? [{ key: AGENT, value: label(run.agent) }] : []),
        ...(reason === undefined ? [] : [{ key: STOP_REASON, value: reason }]),
      ]);
      shown = status;
      ended = reason;
    },
  };
}

/** Undefined: the move does not change what is shown. */
function statusOf(move: Move): Status | undefined {
  switch (move.type) {
    case 'stop':
      return 'stopped';
    case 'wait':
      return 'waiting';
    case 'plan':
      return 'running';
    case 'call':
      return move.mode === 'execute' ? 'running' : undefined;
  }
}
