/** Names on the wire. The arguments of signals are `unknown` because anybody may send anything. */
import { defineQuery, defineSignal } from '@temporalio/workflow';
import type { RunState } from '../core/run-contract.ts';

/** `{pending_id, token}`. The name carries no authority: the token's outcome does. */
export const approvalGranted = defineSignal<unknown[]>('approval_granted');
export const approvalDenied = defineSignal<unknown[]>('approval_denied');
/** No argument, no authority: the run asks the gateway again. */
export const controlsChanged = defineSignal<unknown[]>('controls_changed');
export const stateQuery = defineQuery<RunState>('state');
