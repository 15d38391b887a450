import { RunFile } from '../core/contracts.ts';
import { readYaml } from './yaml-source.ts';

/**
 * Reads a run file, JSON or YAML.
 *
 * @param filename only shown
 * @throws HoldpointError `invalid_run`; `details.problems` have file, line, column, path and message
 */
export function parseRunFile(text: string, filename: string): RunFile {
  return readYaml(text, filename, RunFile, { code: 'invalid_run' }).value;
}
