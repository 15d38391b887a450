/** `holdpoint policy check [FILE]`. */
import { access } from 'node:fs/promises';
import { loadPolicyFile } from '../../adapters/policy-file.ts';
import { loadTools } from '../../adapters/tools.ts';
import { formatProblem } from '../../adapters/yaml-source.ts';
import { ERROR_TABLE } from '../../core/errors.ts';
import { contextOf, type CommonOptions } from '../context.ts';
import { print, printJson, styled, tell } from '../output.ts';
import { visible } from '../visible.ts';
import { EMBEDDED_CONFIG } from '../stack/stack.ts';

export async function check(file: string | undefined, options: CommonOptions & { strict?: boolean }): Promise<number> {
  const context = contextOf(options);
  const path = file ?? process.env.HOLDPOINT_CONFIG ?? (await defaultFile());
  const loaded = await loadPolicyFile(path);
  const { policy_hash } = loaded;
  const tools = await loadTools(loaded.tools);
  const warnings = [...loaded.warnings, ...loaded.unmatched(tools.list().map((tool) => tool.name))];
  const refused = options.strict === true && warnings.length > 0;
  if (context.json) printJson({ ok: !refused, file: path, policy_hash, warnings });
  else {
    for (const warning of warnings)
      tell(`${styled(refused ? 'red' : 'yellow', refused ? 'error' : 'warning', process.stderr)}: ${visible(formatProblem(warning))}`);
    if (!refused) print(`${styled('green', 'ok')}  ${path}  ${policy_hash}`);
  }
  return refused ? ERROR_TABLE.invalid_config.exit : 0;
}

async function defaultFile(): Promise<string> {
  return await access('holdpoint.yaml').then(
    () => 'holdpoint.yaml',
    () => EMBEDDED_CONFIG,
  );
}
