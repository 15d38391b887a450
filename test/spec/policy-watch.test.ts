import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { type WatchedPolicy, watchPolicy } from '../../adapters/policy-watch.ts';
import { evaluatePolicy } from '../../core/policy.ts';
import { eventually, temporaryFolder } from '../support/index.ts';

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let path = '';
let watched: WatchedPolicy;
const log: string[] = [];
const rule = (when: string): Promise<void> => writeFile(path, `policy:\n  rules:\n    - { id: a, tools: [x], effect: allow, when: "${when}" }\n`);
function outcome(n: number): string {
  const { policy, conditions } = watched.current();
  return evaluatePolicy(policy, { tool: 'x', kind: 'write', verified: true, args: { n } }, conditions).outcome;
}
const logged = (part: string): Promise<string> => eventually(() => log.find((line) => line.includes(part)), `a log line with ${part}`);

beforeAll(async () => {
  folder = await temporaryFolder();
  path = join(folder.path, 'holdpoint.yaml');
  await rule('args.n < 3.0');
  watched = await watchPolicy(path, { info: (_facts, message) => log.push(message), error: (_facts, message) => log.push(message) });
});
afterAll(async () => {
  watched.close();
  await folder.remove();
});

test('a changed condition counts once the file has settled; one that cannot work leaves the old one in force, and says so', async () => {
  expect([outcome(1), outcome(5)]).toEqual(['allow', 'approval_required']);
  await rule('arg.n < 9.0');
  expect(await logged('the old one stays in force')).toContain('there is no variable arg');
  expect([outcome(1), outcome(5)]).toEqual(['allow', 'approval_required']);
  await rule('args.n > 3.0');
  await logged('the policy was loaded again');
  expect([outcome(1), outcome(5)]).toEqual(['approval_required', 'allow']);
});
