/** Rules that look right and do nothing: warnings about a policy file that can be used. */
import type { PolicyFile, Rule } from '../core/contracts.ts';
import { matchesAny, matchesTool } from '../core/glob.ts';
import { knownTiers } from '../core/tiers.ts';
import type { FileProblem, ParsedFile } from './yaml-source.ts';

type Parsed = ParsedFile<PolicyFile>;
type Path = readonly PropertyKey[];

export function policyWarnings(parsed: Parsed): FileProblem[] {
  return [...outsideScope(parsed), ...unreachableRules(parsed), ...rolesWithoutTools(parsed)];
}

/** What is asked for is denied before anybody is asked. */
function outsideScope({ value, problemAt }: Parsed): FileProblem[] {
  return value.approvals.required_for.flatMap((pattern, index) => {
    const why = deniedByScope(value, pattern);
    return why === undefined ? [] : [problemAt(['approvals', 'required_for', index], `${pattern} ${why}: it is denied, nobody is ever asked`)];
  });
}

/** A glob on either side may still meet; only what certainly lies outside is named. */
function deniedByScope({ policy }: PolicyFile, pattern: string): string | undefined {
  const { tool_allowlist: allowlist, tool_blocklist: blocklist } = policy;
  if (allowlist && !pattern.includes('*') && !matchesAny(allowlist, pattern)) return 'is not on policy.tool_allowlist';
  return blocklist.some((blocked) => covers(blocked, pattern)) ? 'is on policy.tool_blocklist' : undefined;
}

/** Everything that the second pattern matches, the first matches too. A glob inside a glob: `*` there is one more character. */
const covers = (wide: string, narrow: string): boolean => matchesTool(wide, narrow);

function unreachableRules({ value, problemAt }: Parsed): FileProblem[] {
  const { rules } = value.policy;
  return rules.flatMap((rule, index) => {
    const place: Path = ['policy', 'rules', index];
    const scopes = rule.tools.map((tool) => deniedByScope(value, tool));
    if (scopes.every((why) => why !== undefined)) return [problemAt(place, `rule ${rule.id} decides nothing: each of its tools ${scopes[0]}`)];
    const stronger = rules.find((other) => other !== rule && shadows(other, rule));
    return stronger ? [problemAt(place, `rule ${rule.id} decides nothing: rule ${stronger.id} always ${EFFECT_WORDS[stronger.effect]} the same calls`)] : [];
  });
}

const EFFECT_WORDS: Record<Rule['effect'], string> = { deny: 'denies', approval_required: 'asks before', allow: 'allows' };
const STRENGTH: Record<Rule['effect'], number> = { deny: 2, approval_required: 1, allow: 0 };

/** A rule for everybody and without a condition, whose effect is stronger, on all the tools of the other. */
function shadows(strong: Rule, weak: Rule): boolean {
  if (strong.when !== undefined || strong.agent_roles || strong.owner_roles) return false;
  // A weaker rule may still raise the tier or set votes and time of what is asked.
  const says = weak.tier !== undefined || weak.quorum !== undefined || weak.ttl_seconds !== undefined;
  if (STRENGTH[strong.effect] <= STRENGTH[weak.effect] || (says && strong.effect !== 'deny')) return false;
  return weak.tools.every((tool) => strong.tools.some((wide) => covers(wide, tool)));
}

function rolesWithoutTools({ value, problemAt }: Parsed): FileProblem[] {
  const { role_tools: scopes } = value.policy;
  if (scopes === undefined) return [];
  return (['agents', 'owners'] as const).flatMap((section) =>
    Object.entries(value[section] ?? {}).flatMap(([name, { roles }]) =>
      roles.some((role) => Object.hasOwn(scopes, role))
        ? []
        : [problemAt([section, name], `no role of ${name} is under policy.role_tools: everything that ${name} takes part in is denied`)],
    ),
  );
}

/** Names and globs that match none of these tools. */
export function unmatchedPatterns({ value, problemAt }: Parsed, names: readonly string[]): FileProblem[] {
  const { approvals, policy } = value;
  const lists: [Path, readonly string[]][] = [
    [['approvals', 'required_for'], approvals.required_for],
    [['policy', 'tool_allowlist'], policy.tool_allowlist ?? []],
    [['policy', 'tool_blocklist'], policy.tool_blocklist],
    ...policy.rules.map((rule, index): [Path, readonly string[]] => [['policy', 'rules', index, 'tools'], rule.tools]),
    ...Object.entries(policy.role_tools ?? {}).map(([role, tools]): [Path, readonly string[]] => [['policy', 'role_tools', role], tools]),
  ];
  const places = lists.flatMap(([path, patterns]) => patterns.map((pattern, index): [Path, string] => [[...path, index], pattern]));
  const keys = Object.keys(policy.tool_tiers ?? {}).map((pattern): [Path, string] => [['policy', 'tool_tiers', pattern], pattern]);
  return [...places, ...keys].flatMap(([path, pattern]) =>
    names.some((name) => matchesTool(pattern, name)) ? [] : [problemAt(path, `${pattern} matches no registered tool`)],
  );
}

/** A tool may name a tier that this file never heard of: its calls have that name then, and nothing else of it. */
export function undefinedTiers(
  file: string,
  { policy, placeOf }: { policy: PolicyFile; placeOf(path: Path): { line: number; column: number } },
  tools: readonly { name: string; tier: string | undefined }[],
): FileProblem[] {
  const known = knownTiers(policy);
  return tools.flatMap(({ name, tier }) => {
    if (tier === undefined || known.includes(tier)) return [];
    return [{ file, ...placeOf(['tiers']), path: 'tiers', message: `${name} is of tier ${tier}, which is not defined here` }];
  });
}
