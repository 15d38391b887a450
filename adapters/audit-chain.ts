/** Checks the chains of all runs, event by event, and names each record that is not what it was. */
import type { AuditFinding } from '../client/types.ts';
import { type AuditEvent, GENESIS, hashMatches } from '../core/audit.ts';
import type { ApprovalClaims } from '../core/contracts.ts';
import type { CheckpointHistory, Sealed } from './audit-checkpoints.ts';
import { hashJson } from './hashing.ts';
import type { PinnedKeys } from './jws.ts';
import { verifyToken } from './tokens.ts';

type Place = Pick<AuditEvent, 'run_id' | 'seq' | 'outcome' | 'hash'>;

/** How far back a swap is searched for; more broken records in one run are named one by one as changed. */
const SWAP_SEARCH = 40;

/** False also for what has no canonical form: no writer of ours can have hashed it. */
function isSound(event: AuditEvent): boolean {
  try {
    return hashMatches(event, hashJson);
  } catch {
    return false;
  }
}

/** First member in which a token and the event that carries it differ. */
function mismatch(claims: ApprovalClaims, event: AuditEvent): string | undefined {
  const same = ['run_id', 'pending_id', 'call_id', 'tool', 'tool_hash', 'args_hash', 'policy_hash'] as const;
  const differing = same.find((member) => claims[member] !== event[member]);
  if (differing) return differing;
  if (claims.sub !== event.approver) return 'approver';
  if (!event.event_key.endsWith(`/${claims.jti}`)) return 'decision id';
  if (event.outcome === 'approval_granted' && claims.outcome !== 'approved') return 'outcome';
  if (event.outcome === 'approval_denied' && claims.outcome !== 'denied') return 'outcome';
  return undefined;
}

class RunCheck {
  readonly runId: string;
  readonly sealed: readonly Sealed[];
  readonly keys = new Set<string>();
  /** Records whose own hash is wrong. */
  readonly broken: AuditEvent[] = [];
  last: (Place & { sound: boolean }) | undefined;
  rewritten = false;

  constructor(runId: string, sealed: readonly Sealed[]) {
    this.runId = runId;
    this.sealed = sealed;
  }
}

export class ChainCheck {
  events = 0;
  runs = 0;
  grants = 0;
  /** Runs that a checkpoint or the heads name and of which nothing is left. */
  missingRuns = 0;
  readonly #keys: PinnedKeys;
  readonly #history: CheckpointHistory;
  readonly #findings: AuditFinding[];
  readonly #heads: ReadonlyMap<string, { seq: number; hash: string }> | undefined;
  readonly #seen = new Set<string>();
  #headless = 0;
  #run: RunCheck | undefined;

  constructor(keys: PinnedKeys, history: CheckpointHistory, findings: AuditFinding[], heads?: ReadonlyMap<string, { seq: number; hash: string }>) {
    this.#keys = keys;
    this.#history = history;
    this.#findings = findings;
    this.#heads = heads;
  }

  async add(event: AuditEvent): Promise<void> {
    this.events += 1;
    if (event.run_id !== this.#run?.runId) {
      this.#finishRun();
      if (this.#seen.has(event.run_id)) this.#find('reordered', event, 'records of this run stand apart from the others of it');
      else this.runs += 1;
      this.#seen.add(event.run_id);
      this.#run = new RunCheck(event.run_id, this.#history.sealed.get(event.run_id) ?? []);
    }
    this.#checkEvent(this.#run, event);
    await this.#checkToken(event);
  }

  /** @param only run that was exported alone */
  finish(only: string | undefined): void {
    this.#finishRun();
    this.#run = undefined;
    const named = new Map<string, { seq: number; source: string }>();
    for (const [runId, { seq }] of this.#heads ?? []) if (seq > 0) named.set(runId, { seq, source: 'run_heads' });
    for (const [runId, heads] of this.#history.sealed) {
      const newest = heads.at(-1);
      if (newest) named.set(runId, { seq: newest.seq, source: `checkpoint ${newest.n}` });
    }
    for (const [runId, { seq, source }] of named) {
      if (this.#seen.has(runId) || (only !== undefined && only !== runId)) continue;
      this.missingRuns += 1;
      this.#findings.push({
        kind: 'removed',
        run_id: runId,
        seq: 1,
        where: `${runId}#1..${seq}`,
        message: `run ${runId}: all its records are missing, ${source} says seq ${seq}`,
      });
    }
    if (this.#headless > 0) {
      this.#findings.push({
        kind: 'removed',
        run_id: null,
        seq: null,
        where: 'run_heads',
        message: `${this.#headless} runs have records and no row in run_heads`,
      });
    }
  }

  #find(kind: AuditFinding['kind'], at: Place | AuditEvent, message: string): void {
    this.#findings.push({
      kind,
      run_id: at.run_id,
      seq: at.seq,
      where: `${at.run_id}#${at.seq} (${at.outcome})`,
      message: `run ${at.run_id}, record ${at.seq}: ${message}`,
    });
  }

  #checkEvent(run: RunCheck, event: AuditEvent): void {
    const sound = isSound(event);
    if (!sound) run.broken.push(event);
    if (run.keys.has(event.event_key)) this.#find('inserted', event, `its key ${event.event_key} is used by an earlier record`);
    run.keys.add(event.event_key);
    this.#checkLink(run, event, sound);
    const sealed = run.sealed.find((head) => head.seq === event.seq && head.hash !== event.hash);
    if (sealed && sound && !run.rewritten) {
      run.rewritten = true;
      this.#find('changed', event, `checkpoint ${sealed.n} sealed another record here; this one or one before it was rewritten`);
    }
    if (!run.last || event.seq > run.last.seq) run.last = { run_id: event.run_id, seq: event.seq, outcome: event.outcome, hash: event.hash, sound };
  }

  #checkLink(run: RunCheck, event: AuditEvent, sound: boolean): void {
    const { last } = run;
    const expected = (last?.seq ?? 0) + 1;
    if (event.seq > expected) {
      this.#removed(run.runId, expected, event.seq - 1, `${event.run_id}#${event.seq} follows`);
    } else if (event.seq < expected) {
      this.#find('reordered', event, `it stands behind record ${last?.seq}`);
    } else if (event.prev_hash !== (last?.hash ?? GENESIS) && sound && last?.sound !== false) {
      // This record is what it was, so the one before it is not what this one was written after.
      this.#find(
        'changed',
        last ?? event,
        last ? `record ${event.seq} was written after another one: it was rewritten or put in` : 'it is not the first record of its chain',
      );
    }
  }

  #removed(runId: string, from: number, to: number, evidence: string): void {
    const which = from === to ? `record ${from} is` : `records ${from} to ${to} are`;
    this.#findings.push({
      kind: 'removed',
      run_id: runId,
      seq: from,
      where: from === to ? `${runId}#${from}` : `${runId}#${from}..${to}`,
      message: `run ${runId}: ${which} missing, ${evidence}`,
    });
  }

  #finishRun(): void {
    const run = this.#run;
    if (!run) return;
    this.#nameBroken(run);
    const end = run.last?.seq ?? 0;
    const newest = run.sealed.at(-1);
    const head = this.#heads?.get(run.runId);
    if (newest && newest.seq > end) this.#cutOff(run.runId, end + 1, `checkpoint ${newest.n} says seq ${newest.seq}`);
    else if (head && head.seq > end) this.#cutOff(run.runId, end + 1, `run_heads says seq ${head.seq}`);
    else if (head && run.last && head.seq < end) this.#find('inserted', run.last, `run_heads ends at seq ${head.seq}`);
    else if (head && run.last?.sound && head.hash !== run.last.hash) this.#find('changed', run.last, 'its hash is not the one in run_heads');
    if (this.#heads && !head) this.#headless += 1;
  }

  #cutOff(runId: string, from: number, evidence: string): void {
    this.#findings.push({
      kind: 'cut_off',
      run_id: runId,
      seq: from,
      where: `${runId}#${from}`,
      message: `run ${runId}: events ${from}.. are missing, ${evidence}`,
    });
  }

  /** A record whose hash fits under the number of another broken one has changed places with it. */
  #nameBroken(run: RunCheck): void {
    const candidates = run.broken.slice(0, SWAP_SEARCH);
    for (const event of run.broken) {
      const home = candidates.find((other) => other !== event && isSound({ ...event, seq: other.seq }));
      if (home) this.#find('reordered', event, `it was written as record ${home.seq}`);
      else this.#find('changed', event, 'its contents are not the ones that were hashed');
    }
  }

  async #checkToken(event: AuditEvent): Promise<void> {
    if (event.outcome !== 'approval_granted' && event.outcome !== 'approval_denied' && event.outcome !== 'vote_recorded') return;
    if (event.token === null) {
      this.#find('grant_without_token', event, 'a decision is recorded without its signed token');
      return;
    }
    const verified = await verifyToken(this.#keys, event.token);
    if (!verified.ok) {
      this.#find('bad_signature', event, `the token of ${event.approver ?? 'nobody'} does not verify: ${verified.reason}`);
      return;
    }
    const differs = mismatch(verified.claims, event);
    if (differs) this.#find('bad_signature', event, `the token was signed for another ${differs}`);
    else if (event.outcome === 'approval_granted') this.grants += 1;
  }
}
