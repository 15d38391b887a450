/** What the decision service needs of Temporal and of the policy file, and what its parts share. */
import type { PolicySource } from '../activities/ports.ts';
import type { SigningKeys } from '../adapters/keys.ts';
import type { Pool } from '../adapters/database.ts';
import type { RunFile } from '../core/contracts.ts';

export interface RunsOnTemporal {
  /** Starts the workflow, or finds the one that this same request started. Answers its first execution id. */
  start(run: { run_id: string; start_request_id: string; input: RunFile }): Promise<string>;
  /** Signals a decision. `gone`: no such run is open any more. Throws when Temporal did not answer. */
  deliver(decision: { run_id: string; outcome: 'approved' | 'denied'; pending_id: string; token: string }): Promise<'delivered' | 'gone'>;
  /** Whether this execution is open. Throws when Temporal did not answer. */
  describe(run: { run_id: string; first_execution_id: string }): Promise<'open' | 'gone'>;
  /** Asks the run to cancel; `gone` when there is nothing to cancel. */
  cancel(run_id: string): Promise<'requested' | 'gone'>;
  /** Tells a run that the controls changed. */
  notifyControls(run_id: string): Promise<void>;
  readonly namespace: string;
}

export interface Log {
  debug(facts: object, message: string): void;
  info(facts: object, message: string): void;
  warn(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

/** Shared by all parts of the service. */
export interface ServerContext {
  readonly pool: Pool;
  readonly keys: SigningKeys;
  readonly policy: PolicySource;
  readonly runs: RunsOnTemporal;
  readonly log: Log;
  readonly temporalWeb: string | undefined;
}

/** Who speaks: from the API key, never from the request. */
export interface Principal {
  readonly principal: string;
  readonly roles: readonly string[];
}
