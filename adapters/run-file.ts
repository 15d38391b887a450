import { RunFile } from '../core/contracts.ts';
import { HoldpointError } from '../core/errors.ts';
import { LIMITS } from '../core/words.ts';
import { readYaml } from './yaml-source.ts';

/**
 * Reads a run file, JSON or YAML.
 *
 * @param filename only shown
 * @throws HoldpointError `invalid_run`; `details.problems` have file, line, column, path and message
 */
export function parseRunFile(text: string, filename: string): RunFile {
  const bytes = Buffer.byteLength(text);
  if (bytes > LIMITS.runFile) throw new HoldpointError('invalid_run', `${filename} has ${bytes} bytes; at most ${LIMITS.runFile} are taken`);
  return readYaml(text, filename, RunFile, 'invalid_run').value;
}
