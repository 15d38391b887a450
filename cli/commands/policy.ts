/** `holdpoint policy check`, `explain` and `test`: what a policy file says, without a server. */
import { access } from 'node:fs/promises';
import { ExplainedCall, type ExplainedRule, explainCall, type Explanation } from '../../adapters/policy-explain.ts';
import { loadPolicyFile } from '../../adapters/policy-file.ts';
import { type FixtureResult, runFixtures } from '../../adapters/policy-fixtures.ts';
import { undefinedTiers } from '../../adapters/policy-lint.ts';
import { loadTools } from '../../adapters/tools.ts';
import { formatProblem, readYaml } from '../../adapters/yaml-source.ts';
import { ERROR_TABLE } from '../../core/errors.ts';
import { contextOf, type CommonOptions } from '../context.ts';
import { counted, print, printFields, printJson, styled, tell } from '../output.ts';
import { readText } from '../read-text.ts';
import { visible } from '../visible.ts';
import { EMBEDDED_CONFIG } from '../stack/stack.ts';

export async function check(file: string | undefined, options: CommonOptions & { strict?: boolean }): Promise<number> {
  const context = contextOf(options);
  const path = await policyFile(file);
  const loaded = await loadPolicyFile(path);
  const { policy_hash } = loaded;
  const tools = await loadTools(loaded.tools);
  const names = tools.list().map((tool) => tool.name);
  if (names.length === 0) tell('note: the file names no tool modules, so it is not checked which tools there are');
  const warnings = [...loaded.warnings, ...(names.length === 0 ? [] : loaded.unmatched(names)), ...undefinedTiers(path, loaded, tools.list())];
  const refused = options.strict === true && warnings.length > 0;
  if (context.json) printJson({ ok: !refused, file: path, policy_hash, warnings });
  else {
    for (const warning of warnings)
      tell(`${styled(refused ? 'red' : 'yellow', refused ? 'error' : 'warning', process.stderr)}: ${visible(formatProblem(warning))}`);
    if (!refused) print(`${styled('green', 'ok')}  ${path}  ${policy_hash}`);
  }
  return refused ? ERROR_TABLE.invalid_config.exit : 0;
}

export async function explain(callFile: string, file: string | undefined, options: CommonOptions): Promise<number> {
  const context = contextOf(options);
  const call = readYaml(await readText(callFile, 'usage', 'call'), callFile === '-' ? '<stdin>' : callFile, ExplainedCall, { code: 'usage' }).value;
  const path = await policyFile(file);
  const loaded = await loadPolicyFile(path);
  const explanation = explainCall(loaded, await loadTools(loaded.tools), call, new Date());
  if (context.json) printJson({ file: path, policy_hash: loaded.policy_hash, ...explanation });
  else printExplanation(path, explanation);
  return 0;
}

export async function test(files: readonly string[], options: CommonOptions): Promise<number> {
  const context = contextOf(options);
  const results: FixtureResult[] = [];
  for (const file of files) results.push(...(await runFixtures(file, new Date())));
  const failed = results.filter(({ ok }) => !ok).length;
  if (context.json) printJson({ ok: failed === 0, passed: results.length - failed, failed, cases: results });
  else {
    for (const { file, line, name, ok, differences } of results)
      print(`${ok ? styled('green', 'ok  ') : styled('red', 'FAIL')}  ${visible(`${file}:${line}  ${name}${ok ? '' : `: ${differences.join('; ')}`}`)}`);
    print(`${results.length - failed} passed, ${failed} failed`);
  }
  return failed === 0 ? 0 : 1;
}

async function policyFile(given: string | undefined): Promise<string> {
  if (given !== undefined || process.env.HOLDPOINT_CONFIG !== undefined) return given ?? process.env.HOLDPOINT_CONFIG ?? EMBEDDED_CONFIG;
  return await access('holdpoint.yaml').then(
    () => 'holdpoint.yaml',
    () => EMBEDDED_CONFIG,
  );
}

function printExplanation(path: string, { tool, kind, notes, scope, tiers, rules, decision, line }: Explanation): void {
  for (const note of notes) tell(`${styled('yellow', 'note', process.stderr)}: ${visible(note)}`);
  const where = line === null ? '' : `, ${path}:${line}`;
  const asked = decision.outcome === 'approval_required' ? `${counted(decision.quorum, 'vote')} within ${decision.ttl_seconds} s` : undefined;
  const [firstRule, ...otherRules] =
    rules.length > 0 ? rules.map((rule) => ruleLine(path, rule)) : [scope === null ? 'none speaks of this call' : 'not looked at'];
  printFields([
    ['call', visible(`${tool}, a ${kind}`)],
    ['scope', scope === null ? 'inside' : visible(`outside: ${scope}`)],
    [
      'tier',
      [decision.tier, ...tiers.map((one) => `${one.pattern} is ${one.tier}, ${one.line === null ? 'by its definition' : `${path}:${one.line}`}`)].join('; '),
    ],
    ['rules', firstRule],
    ...otherRules.map((rule): [string, string] => ['', rule]),
    ['outcome', styled('bold', decision.outcome)],
    ['by', visible(`${decision.rule}${where}`)],
    ['because', visible(decision.reason)],
    ['asks for', asked],
  ]);
}

function ruleLine(path: string, { id, line, effect, tier, condition, detail }: ExplainedRule): string {
  const words = { none: 'no condition', true: 'its condition holds', false: 'its condition does not hold' };
  const said =
    condition === 'none' || condition === 'true' || condition === 'false' ? words[condition] : `its condition has no answer: ${condition} (${detail})`;
  return visible(`${id}, ${path}:${line}: ${effect}${tier === null ? '' : `, tier ${tier}`}; ${said}`);
}
