/** `policy test`: calls with the outcome that a policy must give them. */
import { readFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { z } from 'zod';
import { Identifier } from '../core/contracts.ts';
import { HoldpointError, messageOf } from '../core/errors.ts';
import type { PolicyDecision } from '../core/policy.ts';
import { ExplainedCall, explainCall } from './policy-explain.ts';
import { loadPolicyFile } from './policy-file.ts';
import { loadTools } from './tools.ts';
import { readYaml } from './yaml-source.ts';

const Fixtures = z.strictObject({
  /** Relative to the file that names it. */
  policy: z.string().min(1),
  cases: z
    .array(
      z.strictObject({
        name: z.string().min(1).max(200),
        call: ExplainedCall,
        expect: z.strictObject({
          outcome: z.enum(['allow', 'deny', 'approval_required']),
          rule: z.string().optional(),
          tier: Identifier.optional(),
          quorum: z.int().optional(),
          ttl_seconds: z.int().optional(),
        }),
      }),
    )
    .min(1),
});

export interface FixtureResult {
  file: string;
  line: number;
  name: string;
  ok: boolean;
  /** `outcome is allow, not deny`, one for each expectation that was not met. */
  differences: string[];
  decision: PolicyDecision;
}

/** @throws HoldpointError `invalid_config` when the fixtures, their policy or its tools cannot be read */
export async function runFixtures(path: string, present: Date): Promise<FixtureResult[]> {
  const { value, problemAt } = readYaml(await textOf(path), path, Fixtures, { code: 'invalid_config' });
  const policy = await loadPolicyFile(resolve(dirname(path), value.policy));
  const tools = await loadTools(policy.tools);
  return value.cases.map(({ name, call, expect }, index) => {
    const { decision } = explainCall(policy, tools, call, present);
    const differences = differencesOf(decision, expect);
    return { file: path, line: problemAt(['cases', index], '').line, name, ok: differences.length === 0, differences, decision };
  });
}

async function textOf(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (error) {
    throw new HoldpointError('invalid_config', `${path} cannot be read: ${messageOf(error)}`, { cause: error });
  }
}

function differencesOf(decision: PolicyDecision, expected: z.output<typeof Fixtures>['cases'][number]['expect']): string[] {
  return (['outcome', 'rule', 'tier', 'quorum', 'ttl_seconds'] as const).flatMap((key) =>
    expected[key] === undefined || expected[key] === decision[key] ? [] : [`${key} is ${decision[key]}, not ${expected[key]}`],
  );
}
