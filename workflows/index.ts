/** The workflows of a worker: every function exported here can be started by name. */
export { agentRun } from './agent-run.ts';
