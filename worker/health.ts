/** `GET /healthz` of the worker: 200 while every part it needs answers, else 503 with the names of those that do not. */
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { HoldpointError, messageOf } from '../core/errors.ts';

/** A part is well when its check resolves. */
export type Checks = Readonly<Record<string, () => Promise<unknown>>>;

export interface HealthAnswers {
  readonly url: string;
  close(): Promise<void>;
}

/** A part that answers later than this is not well. */
const PATIENCE_MS = 2_000;
/** An answer is good for this long: however often it is asked, the parts are asked once. */
const FRESH_MS = 1_000;

/** @throws HoldpointError `already_running` when the port is taken */
export async function answerHealth(at: { host: string; port: number }, checks: Checks, log: Logger): Promise<HealthAnswers> {
  const failing = remembered(() => failingOf(checks, log));
  const server = createServer((request, response) => {
    const answer = (status: number, body: object): void =>
      void response.writeHead(status, { 'Content-Type': 'application/json', 'Cache-Control': 'no-store' }).end(JSON.stringify(body));
    if (request.url !== '/healthz') return answer(404, { ok: false });
    if (request.method !== 'GET' && request.method !== 'HEAD') return answer(405, { ok: false });
    void failing().then((names) => (names.length === 0 ? answer(200, { ok: true }) : answer(503, { ok: false, failing: names })));
  });
  await listen(server, at);
  const { port } = server.address() as AddressInfo;
  return { url: `http://${at.host.includes(':') ? `[${at.host}]` : at.host}:${port}/healthz`, close: () => close(server) };
}

/** Names of the parts that are not well. Why goes to the log, not to whoever asks. Never rejects. */
async function failingOf(checks: Checks, log: Logger): Promise<string[]> {
  const found = await Promise.all(
    Object.entries(checks).map(async ([part, check]) => {
      try {
        await within(PATIENCE_MS, check());
        return [];
      } catch (error) {
        log.warn({ part, error: messageOf(error) }, 'a part of the worker is not well');
        return [part];
      }
    }),
  );
  return found.flat();
}

async function within(milliseconds: number, work: Promise<unknown>): Promise<void> {
  const settled = new AbortController();
  const late = async (): Promise<never> => {
    await sleep(milliseconds, undefined, { signal: settled.signal });
    throw new Error(`no answer within ${milliseconds} ms`);
  };
  try {
    await Promise.race([work, late()]);
  } finally {
    settled.abort();
  }
}

/** One question at a time; its answer serves everybody who asks until it is stale. */
function remembered<T>(ask: () => Promise<T>): () => Promise<T> {
  let answer: Promise<T> | undefined;
  let staleAt = 0;
  return () => {
    if (answer === undefined || performance.now() > staleAt) {
      staleAt = Number.POSITIVE_INFINITY;
      answer = ask().finally(() => (staleAt = performance.now() + FRESH_MS));
    }
    return answer;
  };
}

function listen(server: Server, { host, port }: { host: string; port: number }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', (error) =>
      reject(
        new HoldpointError('already_running', `/healthz of the worker cannot listen on ${host}:${port}: ${messageOf(error)}`, {
          cause: error,
          hint: 'set HOLDPOINT_HEALTH_PORT to another port, 0 for any free one, or leave it out',
        }),
      ),
    );
    server.listen(port, host, resolve);
  });
}

function close(server: Server): Promise<void> {
  return new Promise((resolve) => {
    server.close(() => resolve());
    server.closeAllConnections();
  });
}
