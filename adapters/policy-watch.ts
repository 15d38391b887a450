/** The policy in force: the file is looked at now and then; one that cannot be used is reported, and the old one stays. */
import { stat } from 'node:fs/promises';
import type { PolicySource } from '../activities/ports.ts';
import { isHoldpointError, messageOf } from '../core/errors.ts';
import { type LoadedPolicyFile, loadPolicyFile } from './policy-file.ts';

const LOOK_EVERY_MS = 1_000;

/** Where a reload is reported; pino fits. */
interface PolicyLog {
  info(facts: object, message: string): void;
  error(facts: object, message: string): void;
}

export interface WatchedPolicy extends PolicySource {
  readonly first: LoadedPolicyFile;
  close(): void;
}

/** @throws HoldpointError `invalid_config` when the file cannot be used at start */
export async function watchPolicy(file: string, log: PolicyLog): Promise<WatchedPolicy> {
  let seen = await versionOf(file);
  let noticed = seen;
  const first = await loadPolicyFile(file);
  let current = first;
  const look = async (): Promise<void> => {
    const version = await versionOf(file);
    if (version === seen) return;
    // Twice the same: a file that is still being written would be read in half, and half of it may parse.
    const settled = version === noticed;
    noticed = version;
    if (!settled) return;
    seen = version;
    try {
      const next = await loadPolicyFile(file);
      if (next.policy_hash !== current.policy_hash) log.info({ policy_hash: next.policy_hash, before: current.policy_hash }, 'the policy was loaded again');
      current = next;
    } catch (error) {
      const problems = isHoldpointError(error) ? error.details['problems'] : undefined;
      log.error({ policy_hash: current.policy_hash, problems }, `the changed policy cannot be used, the old one stays in force: ${messageOf(error)}`);
    }
  };
  const timer = setInterval(() => void look(), LOOK_EVERY_MS);
  timer.unref();
  return { first, current: () => current, close: () => clearInterval(timer) };
}

async function versionOf(file: string): Promise<string> {
  const found = await stat(file).catch(() => undefined);
  return found ? `${found.mtimeMs}/${found.size}/${found.ino}` : 'missing';
}
