/**
 * The run's mailbox: what signals brought and nobody has judged yet. Anybody may send anything, so it reads shapes only,
 * holds a bounded amount, and forgets the oldest. Forgetting is safe: every decision is in the ledger before it is sent,
 * so it is enough to remember that the ledger has to be asked.
 */
import type { VerifyInput } from './run-contract.ts';
import { LIMITS } from './words.ts';

export type Mail = VerifyInput['messages'][number];

const KEPT_MESSAGES = 500;
const KEPT_CHARACTERS = 262_144;
const KEPT_MARKS = 200;
/** What ids and compact tokens are made of. Anything else is no address and no token, and is not carried around. */
const ID = /^[A-Za-z0-9_-]{1,64}$/;
const COMPACT_JWS = /^[A-Za-z0-9_.-]*$/;
/** Characters of a token's end, part of its signature, that tell it from all others. */
const MARK_LENGTH = 64;

export interface Mailbox {
  /** Takes in a signal's argument. Total over anything. */
  post(signal: Mail['signal'], argument: unknown): void;
  /** From now on only mail for these requests counts; null = all, since a request is being made. */
  openTo(pendingIds: ReadonlySet<string> | null): void;
  /** The oldest messages, at most a batch, with those judged before left out. */
  take(): Mail[];
  /** Mail that was judged and changed nothing need not be judged again. */
  remember(mail: readonly Mail[]): void;
  /** True once after mail was lost. */
  takeLoss(): boolean;
  askLedger(): void;
  hasNews(): boolean;
  contents(): { mail: Mail[]; judged: string[]; ask_ledger: boolean };
  /** Puts what an earlier execution left before what came since. */
  restore(left: { mail: Mail[]; judged: string[]; ask_ledger: boolean }): void;
}

export function createMailbox(): Mailbox {
  let mail: Mail[] = [];
  let characters = 0;
  let judged: string[] = [];
  let lost = false;
  let addressees: ReadonlySet<string> | null = null;

  const accepts = (message: Mail): boolean => (addressees === null || addressees.has(message.pending_id)) && !judged.includes(markOf(message));
  const keep = (kept: Mail[]): void => {
    mail = kept;
    characters = kept.reduce((sum, message) => sum + lengthOf(message), 0);
  };
  const forgetOldest = (): void => {
    while (mail.length > KEPT_MESSAGES || characters > KEPT_CHARACTERS) {
      const oldest = mail.shift();
      if (!oldest) return;
      characters -= lengthOf(oldest);
      lost = true;
    }
  };

  return {
    post(signal, argument) {
      const message = readMail(signal, argument);
      if (!message || !accepts(message)) return;
      mail.push(message);
      characters += lengthOf(message);
      forgetOldest();
    },
    openTo(pendingIds) {
      addressees = pendingIds;
      if (pendingIds !== null) keep(mail.filter(accepts));
    },
    take() {
      const batch = mail.slice(0, LIMITS.batch);
      keep(mail.slice(LIMITS.batch));
      return batch;
    },
    remember(messages) {
      judged = [...judged, ...messages.flatMap((message) => (message.token === null ? [] : [markOf(message)]))].slice(-KEPT_MARKS);
      keep(mail.filter(accepts));
    },
    takeLoss() {
      const answer = lost;
      lost = false;
      return answer;
    },
    askLedger() {
      lost = true;
    },
    hasNews: () => lost || mail.length > 0,
    contents: () => ({ mail, judged, ask_ledger: lost }),
    restore(left) {
      judged = [...left.judged, ...judged].slice(-KEPT_MARKS);
      lost ||= left.ask_ledger;
      keep([...left.mail, ...mail]);
      forgetOldest();
    },
  };
}

/** Mail is an object that names a request. A token that cannot be one is kept as null, so that the attempt is recorded. */
export function readMail(signal: Mail['signal'], argument: unknown): Mail | undefined {
  if (typeof argument !== 'object' || argument === null) return undefined;
  const { pending_id: pendingId, token } = argument as { pending_id?: unknown; token?: unknown };
  if (typeof pendingId !== 'string' || !ID.test(pendingId)) return undefined;
  const usable = typeof token === 'string' && token.length <= LIMITS.token && COMPACT_JWS.test(token);
  return { pending_id: pendingId, signal, token: usable ? token : null };
}

/** A message as {@link readMail} makes it, after a way through somebody else's hands. */
export function isMail(value: unknown): value is Mail {
  if (typeof value !== 'object' || value === null) return false;
  const { pending_id: pendingId, signal, token } = value as Record<string, unknown>;
  if (typeof pendingId !== 'string') return false;
  return (signal === 'approval_granted' || signal === 'approval_denied') && (token === null || typeof token === 'string');
}

function markOf(message: Mail): string {
  return message.token === null ? '' : `${message.signal} ${message.pending_id} ${message.token.slice(-MARK_LENGTH)}`;
}

function lengthOf(message: Mail): number {
  return message.pending_id.length + (message.token?.length ?? 0);
}
