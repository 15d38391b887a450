/** What users write: tools and planners. The package's `holdpoint/tools` entry. */
import type { z } from 'zod';

/** What a tool gets besides its arguments. */
export interface ToolContext {
  run_id: string;
  call_id: string;
  /** The same for every attempt of this call: hand it to the service that you call. */
  idempotency_key: string;
  /** Compact JWS of the approval, a JSON array of them when the quorum is above one, absent when nobody had to be asked. */
  approval_token?: string;
  /** Aborted when the tool's time is over. */
  signal: AbortSignal;
}

export interface ToolDefinition<S extends z.ZodType = z.ZodType> {
  /** Unique, e.g. `email.send`. */
  name: string;
  /** Absent = `write`. */
  kind?: 'read' | 'write';
  /** True: calling again with the same `idempotency_key` is one effect. Absent = false: then an interrupted call is never repeated. */
  idempotent?: boolean;
  /** Risk tier while `policy.tool_tiers` names none for this tool: `high`, `low`, or one of `tiers`. */
  tier?: string;
  /** Part of the tool's hash: raise it when the meaning changes and the schema does not. */
  version?: string;
  /** Schema of the arguments. Make objects strict: an unknown key should be refused, not dropped. */
  input: S;
  /** One line for the person who approves. Absent = name and arguments. */
  preview?: (args: z.output<S>) => string;
  /** Seconds after which a call counts as interrupted. Default 300. */
  timeout_seconds?: number;
  execute: (args: z.output<S>, context: ToolContext) => Promise<unknown>;
}

/** Types a tool definition. A tools module exports the answer, one or an array, under any name. */
export function defineTool<S extends z.ZodType>(definition: ToolDefinition<S>): ToolDefinition<S> {
  return definition;
}

/** One past call, as the planner sees it. */
export interface TranscriptEntry {
  call_id: string;
  tool: string;
  args: unknown;
  status: 'executed' | 'refused' | 'invalid';
  /** The tool's result, parsed; cut text when it was too long. */
  result?: unknown;
  /** Why it was refused. */
  reason?: string;
}

export interface PlannerInput {
  goal: string;
  /** The newest 500 calls that ended, oldest first, with the first 64 KB of each result. */
  transcript: TranscriptEntry[];
  /** The refused ones of the transcript. */
  refusals: TranscriptEntry[];
}

/** `calls` go to the gateway in order; `done` ends the run. Usage is counted against the budgets. */
export type PlannerOutput =
  | { calls: { tool: string; args: unknown; reason?: string }[]; usage?: { usd?: number; tokens?: number } }
  | { done: boolean | string; usage?: { usd?: number; tokens?: number } };

export interface PlannerDefinition {
  plan: (input: PlannerInput) => Promise<PlannerOutput>;
}

/** Types a planner. A planner module exports it as `default` or as `plan`. */
export function definePlanner(definition: PlannerDefinition): PlannerDefinition {
  return definition;
}
