/** Whatever the example tools do to the world is also one line in `effects.jsonl`, so that effects can be counted. */
import { appendFile, open, readFile } from 'node:fs/promises';
import type { ToolContext } from '../../activities/define.ts';

/** One effect. */
export interface EffectLine {
  tool: string;
  args: unknown;
  run_id: string;
  call_id: string;
  idempotency_key: string;
  at: string;
}

const file = (): string | undefined => process.env.HOLDPOINT_EFFECTS_FILE || undefined;

/** For tools whose only effect is the line: without a file they would report what did not happen. */
export function requireEffectsFile(tool: string): void {
  if (!file()) throw new Error(`HOLDPOINT_EFFECTS_FILE is not set: ${tool} has nowhere to act`);
}

/** Writes the line of an effect with one write, as the last act of the effect. */
export async function recordEffect(tool: string, args: unknown, context: ToolContext): Promise<void> {
  const path = file();
  const { run_id, call_id, idempotency_key } = context;
  const line: EffectLine = { tool, args, run_id, call_id, idempotency_key, at: new Date().toISOString() };
  if (path) await appendFile(path, `${JSON.stringify(line)}\n`, { mode: 0o600 });
  await dieOnRequest(tool);
}

/** True when this key has its line already: how a tool without a store of its own is idempotent. */
export async function hasEffect(context: ToolContext): Promise<boolean> {
  const path = file();
  if (!path) return false;
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return '';
    throw error;
  });
  // The text is looked for first: it is in few lines, and only these are parsed. Arguments may hold it, too.
  return text.split('\n').some((line) => line.includes(context.idempotency_key) && keyOf(line) === context.idempotency_key);
}

/** A line that a killed process left half is no effect that can be read. */
function keyOf(line: string): unknown {
  try {
    return (JSON.parse(line) as Partial<EffectLine> | null)?.idempotency_key;
  } catch {
    return undefined;
  }
}

/** Test hook: with HOLDPOINT_FAULT_AFTER_EFFECT=<tool> the process dies on the line after the effect, once. */
async function dieOnRequest(tool: string): Promise<void> {
  const marker = process.env.HOLDPOINT_FAULT_MARKER;
  if (process.env.HOLDPOINT_FAULT_AFTER_EFFECT !== tool || !marker) return;
  const first = await open(marker, 'wx').catch(() => undefined);
  if (!first) return;
  await first.close();
  process.kill(process.pid, 'SIGKILL');
}
