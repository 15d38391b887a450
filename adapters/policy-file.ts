/** `holdpoint.yaml`: read, checked, with the place of each problem. */
import { readFile } from 'node:fs/promises';
import { dirname, isAbsolute, resolve } from 'node:path';
import type { LoadedPolicy } from '../activities/ports.ts';
import { PolicyFile } from '../core/contracts.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import { DEFAULT_TIER, knownTiers } from '../core/tiers.ts';
import { compileConditions, conditionFaults } from './cel.ts';
import { hashJson } from './hashing.ts';
import { EXAMPLES } from './modules.ts';
import { policyWarnings, unmatchedPatterns } from './policy-lint.ts';
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
  /** Where a part of the file stands, or the nearest part around it. */
  placeOf(path: readonly PropertyKey[]): { line: number; column: number };
}

const NOT_YET = Object.fromEntries(
  ['limits', 'approvers', 'step_up', 'escalation'].flatMap((key) =>
    [`tiers.*.${key}`, `policy.rules.*.${key}`].map((path) => [path, 'not supported by this version']),
  ),
);

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
    ...loadedPolicy(policy),
    path: absolute,
    tools: policy.tools.map(modulePath),
    planners: Object.fromEntries(Object.entries(policy.planners).map(([name, specifier]) => [name, modulePath(specifier)])),
    warnings: parsed.warnings,
    unmatched: parsed.unmatched,
    placeOf: parsed.placeOf,
  };
}

/** A policy that was read, ready to judge calls. */
export function loadedPolicy(policy: PolicyFile): LoadedPolicy {
  return { policy, policy_hash: hashJson(policy), conditions: compileConditions(policy) };
}

type ParsedPolicy = Pick<LoadedPolicyFile, 'policy' | 'warnings' | 'unmatched' | 'placeOf'>;

/** Text of a policy file. `filename` is only shown. */
export function parsePolicy(text: string, filename: string): ParsedPolicy {
  const parsed = readYaml(text, filename, PolicyFile, { code: 'invalid_config', remarks: NOT_YET, ownKeysOnly: true });
  const problems = [...duplicateRules(parsed), ...faultyConditions(parsed), ...unknownTiers(parsed), ...unknownRoles(parsed)];
  if (problems.length > 0) throw problemsError('invalid_config', problems);
  return {
    policy: parsed.value,
    warnings: policyWarnings(parsed),
    unmatched: (names) => unmatchedPatterns(parsed, names),
    placeOf: (path) => {
      const { line, column } = parsed.problemAt(path, '');
      return { line, column };
    },
  };
}

function duplicateRules({ value, problemAt }: ParsedFile<PolicyFile>): FileProblem[] {
  const seen = new Set<string>();
  return value.policy.rules.flatMap((rule, index) => {
    const again = seen.has(rule.id);
    seen.add(rule.id);
    return again ? [problemAt(['policy', 'rules', index, 'id'], `another rule has the id ${rule.id}`)] : [];
  });
}

function faultyConditions({ value, problemAt }: ParsedFile<PolicyFile>): FileProblem[] {
  return value.policy.rules.flatMap(({ when }, index) =>
    when === undefined ? [] : conditionFaults(when).map(({ offset, message }) => problemAt(['policy', 'rules', index, 'when'], message, offset)),
  );
}

/** A tier that nobody defined would ask for nothing of its own, whatever its name promises. */
function unknownTiers({ value, problemAt }: ParsedFile<PolicyFile>): FileProblem[] {
  const { tiers = {}, policy } = value;
  const known = knownTiers(value);
  const used: [readonly PropertyKey[], string][] = [
    ...policy.rules.flatMap(({ tier }, index): [readonly PropertyKey[], string][] => (tier === undefined ? [] : [[['policy', 'rules', index, 'tier'], tier]])),
    ...Object.entries(policy.tool_tiers ?? {}).map(([pattern, tier]): [readonly PropertyKey[], string] => [['policy', 'tool_tiers', pattern], tier]),
  ];
  return [
    ...(Object.hasOwn(tiers, DEFAULT_TIER) ? [problemAt(['tiers', DEFAULT_TIER], 'the default tier is what approvals says')] : []),
    ...used.flatMap(([path, tier]) => (known.includes(tier) ? [] : [problemAt(path, `tiers has no ${tier}; known: ${known.join(', ')}`)])),
  ];
}

/** A rule for a role that nobody has would never match. */
function unknownRoles({ value, problemAt }: ParsedFile<PolicyFile>): FileProblem[] {
  return value.policy.rules.flatMap((rule, index) =>
    (
      [
        ['agent_roles', value.agents],
        ['owner_roles', value.owners],
      ] as const
    ).flatMap(([key, section]) => {
      const given = Object.values(section ?? {}).flatMap(({ roles }) => roles);
      return (rule[key] ?? []).flatMap((role, at) =>
        given.includes(role)
          ? []
          : [problemAt(['policy', 'rules', index, key, at], `nobody under ${key === 'agent_roles' ? 'agents' : 'owners'} has the role ${role}`)],
      );
    }),
  );
}
