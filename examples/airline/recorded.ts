/** What the tools answer and what they leave behind: the recorded result, and one line per write. */
import { appendFileSync, readFileSync } from 'node:fs';
import { isDeepStrictEqual } from 'node:util';
import type { ToolContext } from 'holdpoint/tools';

interface RecordedCall {
  tool: string;
  args: unknown;
  result: string;
}

const runs: RecordedCall[][] = readFileSync(new URL('./runs.jsonl', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n')
  .map((line) => (JSON.parse(line) as { calls: RecordedCall[] }).calls);

/**
 * The result that was recorded for this call. A run that repeats a call got another answer the second time: the one at
 * the same place in its run is taken first, else the first that fits. Nothing is remembered, so a retry is answered alike.
 *
 * @throws Error when no run has such a call
 */
export function recordedResult(tool: string, args: unknown, context: ToolContext): string {
  const isSame = (call: RecordedCall | undefined): boolean => call?.tool === tool && isDeepStrictEqual(call.args, args);
  // A script has one call per step, and steps count from 1.
  const place = Number.parseInt(context.call_id, 10) - 1;
  const atItsPlace = runs.map((calls) => calls[place]).find(isSame);
  const found = atItsPlace ?? runs.flat().find(isSame);
  if (!found) throw new Error(`runs.jsonl has no ${tool} with these arguments: the airline only knows what was recorded`);
  return found.result;
}

/** One line in HOLDPOINT_EFFECTS_FILE per idempotency key, however often the call is repeated. */
export function recordEffect(tool: string, args: unknown, context: ToolContext): void {
  const file = process.env.HOLDPOINT_EFFECTS_FILE;
  if (!file) return;
  const { run_id, call_id, idempotency_key } = context;
  if (linesOf(file).includes(`"idempotency_key":${JSON.stringify(idempotency_key)}`)) return;
  // Synchronous from the look to the line: no other call of this worker gets between.
  appendFileSync(file, `${JSON.stringify({ tool, args, run_id, call_id, idempotency_key, at: new Date().toISOString() })}\n`, { mode: 0o600 });
}

function linesOf(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return '';
    throw error;
  }
}
