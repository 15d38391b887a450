/** A Temporal server that asks for a token: `TEMPORAL_API_KEY` beside the certificate. */
import { createServer, type Server } from 'node:http';
import { once } from 'node:events';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { exportJWK, generateKeyPair, SignJWT, type CryptoKey } from 'jose';
import { afterAll, beforeAll, expect, inject, test } from 'vitest';
import { Parts, pendingOf, SEND } from '../fault/parts.ts';
import { connect, lazyConnection } from '../support/environment.ts';
import { startFullServer, type FullServer } from '../support/full-server.ts';
import { temporaryFolder } from '../support/index.ts';
import { ensureServerBinaries } from '../support/server-binaries.ts';

const PERMISSION_DENIED = 7;

let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let keys: Server;
let temporal: FullServer;
let tokenFor: (...permissions: string[]) => Promise<string>;

beforeAll(async () => {
  folder = await temporaryFolder();
  const { privateKey, publicKey } = await generateKeyPair('ES256', { extractable: true });
  const set = JSON.stringify({ keys: [{ ...(await exportJWK(publicKey)), kid: 'k1', alg: 'ES256', use: 'sig' }] });
  keys = createServer((_request, response) => response.end(set)).listen(0, '127.0.0.1');
  await once(keys, 'listening');
  tokenFor = (...permissions) => sign(privateKey, permissions);
  temporal = await startFullServer({
    binaries: await ensureServerBinaries((message) => void process.stderr.write(`${message}\n`)),
    program: inject('temporalProgram'),
    databaseAdminUrl: inject('adminDatabaseUrl'),
    folder: join(folder.path, 'temporal'),
    authorization: { jwksUrl: `http://127.0.0.1:${(keys.address() as AddressInfo).port}/`, apiKey: await tokenFor('temporal-system:admin') },
  });
}, 600_000);
afterAll(async () => {
  await temporal?.stop();
  keys?.close();
  await folder.remove();
});

async function sign(key: CryptoKey, permissions: string[]): Promise<string> {
  return await new SignJWT({ permissions }).setProtectedHeader({ alg: 'ES256', kid: 'k1' }).setSubject('test').setIssuedAt().setExpirationTime('1h').sign(key);
}

const withKey = (apiKey: string): Record<string, string> => ({ ...temporal.environment, TEMPORAL_API_KEY: apiKey });

test('a worker and an API whose key may write this namespace alone run a call to its end, search attributes included', async () => {
  const parts = await Parts.start({ temporal: withKey(await tokenFor('default:write')) });
  try {
    const run = await parts.run([SEND]);
    await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' });
    expect(await parts.stopped(run.run_id)).toMatchObject({ stop_reason: 'completed' });
    expect(await parts.effects(run.run_id)).toHaveLength(1);
    const handle = (await parts.temporal()).workflow.getHandle(run.run_id);
    await handle.result();
    expect((await handle.describe()).searchAttributes).toMatchObject({ HoldpointStopReason: ['completed'] });
  } finally {
    await parts.close();
  }
});

test('a key that may only read sends no signal, and a forged one or none reads nothing', async () => {
  const { privateKey: foreign } = await generateKeyPair('ES256');
  const reader = await connect(withKey(await tokenFor('default:read')));
  await reader.workflowService.describeNamespace({ namespace: 'default' });
  const signal = { namespace: 'default', workflowExecution: { workflowId: 'any' }, signalName: 'controls_changed', identity: 'test' };
  await expect(reader.workflowService.signalWorkflowExecution(signal)).rejects.toMatchObject({ code: PERMISSION_DENIED });
  await reader.close();
  const { TEMPORAL_API_KEY: _, ...none } = temporal.environment;
  for (const environment of [withKey(await sign(foreign, ['default:admin'])), none]) {
    const connection = lazyConnection(environment);
    await expect(connection.workflowService.describeNamespace({ namespace: 'default' })).rejects.toMatchObject({ code: PERMISSION_DENIED });
    await connection.close();
  }
});
