import { readdir, readFile, readlink, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Parts, pendingOf, SEND } from './parts.ts';

let parts: Parts;
let privateParts: string[];
beforeAll(async () => {
  parts = await Parts.start({ config: 'approvals: { ttl_seconds: 60 }' });
  const keys = join(parts.folder, 'keys');
  const files = await readdir(keys);
  privateParts = await Promise.all(files.map(async (file) => (JSON.parse(await readFile(join(keys, file), 'utf8')) as { d: string }).d));
  expect(privateParts.length).toBeGreaterThan(0);
});
afterAll(() => parts.close());

const environmentOf = async (pid: number): Promise<string[]> => (await readFile(`/proc/${pid}/environ`, 'utf8')).split('\0').filter(Boolean);

async function openFiles(pid: number): Promise<string[]> {
  const folder = `/proc/${pid}/fd`;
  const targets = await Promise.all((await readdir(folder)).map((fd) => readlink(join(folder, fd)).catch(() => '')));
  return targets.filter((target) => target.startsWith('/'));
}

test('the worker has the signing key neither in its environment nor in an open file, while it waits and after it executed', async () => {
  const run = await parts.run([SEND]);
  for (const phase of ['waiting', 'done']) {
    if (phase === 'done') {
      await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' });
      expect((await parts.stopped(run.run_id)).stop_reason).toBe('completed');
    }
    const pid = parts.pid('worker');
    const environment = await environmentOf(pid);
    expect(environment.some((entry) => entry.startsWith('HOLDPOINT_JWKS='))).toBe(true);
    const forbidden = [
      ...privateParts,
      join(parts.folder, 'keys'),
      'HOLDPOINT_KEYS_DIR',
      'HOLDPOINT_IDENTITIES',
      'HOLDPOINT_CHECKPOINTS_DIR',
      'holdpoint_serve',
    ];
    for (const secret of forbidden) expect(environment.filter((entry) => entry.includes(secret))).toEqual([]);
    const files = await openFiles(pid);
    expect(files.length).toBeGreaterThan(0);
    expect(files.filter((file) => file.startsWith(join(parts.folder, 'keys')) || file.startsWith(join(parts.folder, 'checkpoints')))).toEqual([]);
  }
});

test('the service has no credentials of tools, and only its own user reads the keys', async () => {
  const environment = await environmentOf(parts.pid('serve'));
  for (const name of ['HOLDPOINT_EXAMPLE_DATABASE_URL', 'HOLDPOINT_EFFECTS_FILE', 'SMTP_URL', 'holdpoint_worker']) {
    expect(environment.filter((entry) => entry.includes(name))).toEqual([]);
  }
  const keys = join(parts.folder, 'keys');
  expect((await stat(keys)).mode & 0o077).toBe(0);
  for (const file of await readdir(keys)) expect((await stat(join(keys, file))).mode & 0o777).toBe(0o600);
});

test('private key, API keys and tokens are in no log, and the keys in no history', async () => {
  const run = await parts.run([SEND]);
  await parts.as('approver').decide(pendingOf(run), { outcome: 'approved' });
  await parts.stopped(run.run_id);
  const { rows } = await parts.admin.query<{ token: string }>('SELECT token FROM decisions');
  const apiKeys = ['o', 'a', 's'].map((letter) => `hp_${letter.repeat(43)}`);
  for (const name of ['serve', 'worker']) {
    const log = await readFile(join(parts.folder, `${name}.log`), 'utf8');
    for (const secret of [...privateParts, ...apiKeys, ...rows.map((row) => row.token)]) expect(log).not.toContain(secret);
  }
  const history = JSON.stringify(await (await parts.temporal()).workflow.getHandle(run.run_id).fetchHistory());
  expect(history).not.toBe('');
  for (const secret of [...privateParts, ...apiKeys]) {
    expect(history).not.toContain(secret);
    expect(history).not.toContain(Buffer.from(secret).toString('base64').slice(0, -4));
  }
});
