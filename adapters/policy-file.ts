/** `holdpoint.yaml`: read, checked, with the place of each problem. */
import { readFile } from 'node:fs/promises';
import { dirname, isAbsolute, resolve } from 'node:path';
import type { LoadedPolicy } from '../activities/ports.ts';
import { PolicyFile } from '../core/contracts.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { matchesTool } from '../core/policy.ts';
import { hashJson } from './hashing.ts';
import { EXAMPLES } from './modules.ts';
import { type FileProblem, type ParsedFile, problemsError, readYaml } from './yaml-source.ts';

export type { FileProblem } from './yaml-source.ts';

export interface LoadedPolicyFile extends LoadedPolicy {
  /** Absolute path of the file. */
  readonly path: string;
  /** Tool modules, absolute. */
  readonly tools: readonly string[];
  /** Planner modules, absolute. */
  readonly planners: Readonly<Record<string, string>>;
  readonly warnings: readonly FileProblem[];
  /** Names and globs that match none of these tools, as problems with their place. */
  unmatched(toolNames: readonly string[]): FileProblem[];
}

const NOT_YET = { 'policy.rules.*.when': 'conditions are not supported by this version' };

/** @throws HoldpointError `invalid_config`; `details.problems` are {@link FileProblem}s */
export async function loadPolicyFile(path: string): Promise<LoadedPolicyFile> {
  const absolute = resolve(path);
  let text: string;
  try {
    text = await readFile(absolute, 'utf8');
  } catch (error) {
    throw new HoldpointError('invalid_config', `${path} cannot be read: ${messageOf(error)}`, { cause: error });
  }
  const parsed = parsePolicy(text, path);
  const base = dirname(absolute);
  const modulePath = (specifier: string): string => (specifier === EXAMPLES || isAbsolute(specifier) ? specifier : resolve(base, specifier));
  const { policy } = parsed;
  return {
    policy,
    policy_hash: hashJson(policy),
    path: absolute,
    tools: policy.tools.map(modulePath),
    planners: Object.fromEntries(Object.entries(policy.planners).map(([name, specifier]) => [name, modulePath(specifier)])),
    warnings: parsed.warnings,
    unmatched: parsed.unmatched,
  };
}

/** Text of a policy file. `filename` is only shown. */
export function parsePolicy(text: string, filename: string): { policy: PolicyFile; warnings: FileProblem[]; unmatched: LoadedPolicyFile['unmatched'] } {
  const parsed = readYaml(text, filename, PolicyFile, { code: 'invalid_config', remarks: NOT_YET });
  const policy = parsed.value;
  const problems = duplicateRules(parsed);
  if (problems.length > 0) throw problemsError('invalid_config', problems);
  return { policy, warnings: outsideScope(parsed), unmatched: (names) => unmatchedPatterns(parsed, names) };
}

function duplicateRules({ value, problemAt }: ParsedFile<PolicyFile>): FileProblem[] {
  const seen = new Set<string>();
  return value.policy.rules.flatMap((rule, index) => {
    const again = seen.has(rule.id);
    seen.add(rule.id);
    return again ? [problemAt(['policy', 'rules', index, 'id'], `another rule has the id ${rule.id}`)] : [];
  });
}

/** A rule that looks right and does nothing: the tool it asks for is denied before anybody is asked. */
function outsideScope({ value, problemAt }: ParsedFile<PolicyFile>): FileProblem[] {
  const { tool_allowlist: allowlist, tool_blocklist: blocklist } = value.policy;
  return value.approvals.required_for.flatMap((pattern, index) => {
    const place = ['approvals', 'required_for', index];
    // A glob on either side may still meet; only what certainly lies outside is named.
    if (allowlist && !pattern.includes('*') && !allowlist.some((allowed) => matchesTool(allowed, pattern))) {
      return [problemAt(place, `${pattern} is not on policy.tool_allowlist: it is denied, nobody is ever asked`)];
    }
    if (blocklist.some((blocked) => matchesTool(blocked, pattern)))
      return [problemAt(place, `${pattern} is on policy.tool_blocklist: it is denied, nobody is ever asked`)];
    return [];
  });
}

function unmatchedPatterns({ value, problemAt }: ParsedFile<PolicyFile>, names: readonly string[]): FileProblem[] {
  const lists: [readonly PropertyKey[], readonly string[]][] = [
    [['approvals', 'required_for'], value.approvals.required_for],
    [['policy', 'tool_allowlist'], value.policy.tool_allowlist ?? []],
    [['policy', 'tool_blocklist'], value.policy.tool_blocklist],
    ...value.policy.rules.map((rule, index): [readonly PropertyKey[], readonly string[]] => [['policy', 'rules', index, 'tools'], rule.tools]),
  ];
  return lists.flatMap(([path, patterns]) =>
    patterns.flatMap((pattern, index) =>
      names.some((name) => matchesTool(pattern, name)) ? [] : [problemAt([...path, index], `${pattern} matches no registered tool`)],
    ),
  );
}
