import { spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { readFile, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:http';
import { type AddressInfo, createServer as createTcpServer } from 'node:net';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import pg from 'pg';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import type { ToolContext } from '../../activities/define.ts';
import { isForbiddenAddress } from '../../adapters/example-tools/http-get.ts';
import { EXAMPLES } from '../../adapters/modules.ts';
import { loadTools } from '../../adapters/tools.ts';
import type { Tools } from '../../activities/ports.ts';
import { freshDatabase, type TestDatabase, temporaryFolder } from '../support/index.ts';

let tools: Tools;
let folder: Awaited<ReturnType<typeof temporaryFolder>>;
let effectsFile = '';
let count = 0;
const environment = { ...process.env };

beforeAll(async () => {
  folder = await temporaryFolder();
  tools = await loadTools([EXAMPLES]);
});
beforeEach(() => {
  effectsFile = join(folder.path, `effects-${count++}.jsonl`);
  process.env.HOLDPOINT_EFFECTS_FILE = effectsFile;
  for (const name of ['SMTP_URL', 'HOLDPOINT_EXAMPLE_DATABASE_URL', 'HOLDPOINT_HTTP_ALLOW_LOOPBACK', 'HOLDPOINT_FAULT_AFTER_EFFECT']) delete process.env[name];
});
afterEach(() => {
  process.env = { ...environment };
});
afterAll(() => folder.remove());

const context = (key = 'run_a/1.1'): ToolContext => ({ run_id: 'run_a', call_id: '1.1', idempotency_key: key, signal: new AbortController().signal });

/** What the gateway does: parse once, execute what came out. */
async function act(name: string, args: unknown, key?: string): Promise<unknown> {
  const tool = tools.get(name);
  const parsed = tool?.parse(args);
  if (!tool || !parsed?.ok) throw new Error(`not a call: ${name} ${JSON.stringify(parsed)}`);
  return tool.execute(parsed.value, context(key));
}

const effects = async (): Promise<Record<string, unknown>[]> => {
  const text = await readFile(effectsFile, 'utf8').catch(() => '');
  return text
    .split('\n')
    .filter(Boolean)
    .map((line) => JSON.parse(line) as Record<string, unknown>);
};

test('the example tools say what they are: four writes, of which only mail must not be repeated, and two reads', () => {
  expect(
    tools
      .list()
      .map(({ name, kind, idempotent }) => `${name} ${kind}${idempotent ? ' idempotent' : ''}`)
      .sort(),
  ).toEqual([
    'crm.delete_contact write idempotent',
    'db.write write idempotent',
    'email.send write',
    'http.get read',
    'search.read read',
    'ticket.close_bulk write idempotent',
  ]);
});

describe('an effect', () => {
  const mail = { to: 'ada@example.com', subject: 'Hello', body: 'line 1\nline 2' };

  test('is one line with tool, arguments, run, call, key and time', async () => {
    expect(await act('email.send', mail)).toMatchObject({ sent: false, note: expect.stringContaining('SMTP_URL') });
    expect(await effects()).toEqual([
      { tool: 'email.send', args: mail, run_id: 'run_a', call_id: '1.1', idempotency_key: 'run_a/1.1', at: expect.stringMatching(/^\d{4}-\d\d-\d\dT.*Z$/) },
    ]);
  });

  test.each([
    ['ticket.close_bulk', { ticket_ids: ['t1', 't2'] }],
    ['crm.delete_contact', { contact_id: 'c1' }],
  ])('of %s is one for each key, however often it is repeated', async (name, args) => {
    for (const key of ['k1', 'k1', 'k2', 'k1', 'k2']) await act(name, args, key);
    expect((await effects()).map((line) => line.idempotency_key)).toEqual(['k1', 'k2']);
  });

  test('of one key is not held back by arguments that quote the line of another', async () => {
    await act('email.send', { ...mail, body: '"idempotency_key":"k9"' }, 'k1');
    await writeFile(effectsFile, `${await readFile(effectsFile, 'utf8')}{"args":{"idempotency_key":"k9"},"idempotency_key":"k2"}\n{"idempotency_key":"k9`);
    await writeFile(effectsFile, `${await readFile(effectsFile, 'utf8')}\n`);
    await act('crm.delete_contact', { contact_id: 'c' }, 'k9');
    expect(await readFile(effectsFile, 'utf8')).toMatch(/"tool":"crm\.delete_contact".*"idempotency_key":"k9"/);
  });

  test('without anywhere to go is an error, not a success', async () => {
    delete process.env.HOLDPOINT_EFFECTS_FILE;
    for (const [name, args] of [
      ['email.send', mail],
      ['ticket.close_bulk', { ticket_ids: ['t'] }],
      ['crm.delete_contact', { contact_id: 'c' }],
    ] as const) {
      await expect(act(name, args)).rejects.toThrow(`HOLDPOINT_EFFECTS_FILE is not set: ${name} has nowhere to act`);
    }
  });
});

test('the fault hook kills the process on the line after the effect, once, and only where it is asked for', async () => {
  const root = fileURLToPath(new URL('../..', import.meta.url));
  const script = join(root, 'adapters/example-tools/index.ts');
  const call = `import { emailSend } from ${JSON.stringify(script)};
    const context = { run_id: 'r', call_id: '1.1', idempotency_key: 'k', signal: new AbortController().signal };
    await emailSend.execute({ to: 'a@example.com', subject: 's', body: 'b' }, context);
    console.log('alive');`;
  const run = (fault: Record<string, string>): { signal: string | null; alive: boolean } => {
    const env = { ...environment, HOLDPOINT_EFFECTS_FILE: effectsFile, ...fault };
    const { signal, stdout } = spawnSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', call], { cwd: root, env, encoding: 'utf8' });
    return { signal, alive: stdout.includes('alive') };
  };
  const fault = { HOLDPOINT_FAULT_AFTER_EFFECT: 'email.send', HOLDPOINT_FAULT_MARKER: join(folder.path, 'marker') };
  expect(run(fault)).toEqual({ signal: 'SIGKILL', alive: false });
  expect(await effects()).toHaveLength(1);
  expect(run(fault)).toEqual({ signal: null, alive: true });
  expect(run({ ...fault, HOLDPOINT_FAULT_AFTER_EFFECT: 'db.write', HOLDPOINT_FAULT_MARKER: join(folder.path, 'other') })).toEqual({
    signal: null,
    alive: true,
  });
  expect(await effects()).toHaveLength(3);
});

test('mail goes to the SMTP server that is configured, and the line follows it', async () => {
  const received: string[] = [];
  const server = createTcpServer((socket) => {
    let inBody = false;
    socket.write('220 test\r\n');
    socket.on('data', (chunk) => {
      const text = chunk.toString();
      received.push(text);
      if (inBody) {
        if (text.includes('\r\n.\r\n')) {
          inBody = false;
          socket.write('250 taken\r\n');
        }
      } else if (text.startsWith('DATA')) {
        inBody = true;
        socket.write('354 go on\r\n');
      } else socket.write(text.startsWith('QUIT') ? '221 bye\r\n' : '250 ok\r\n');
    });
    socket.on('error', () => {});
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  process.env.SMTP_URL = `smtp://127.0.0.1:${(server.address() as AddressInfo).port}`;
  try {
    expect(await act('email.send', { to: 'ada@example.com', subject: 'Hello', body: 'real mail' })).toMatchObject({
      sent: true,
      message_id: expect.any(String),
    });
    expect(received.join('')).toContain('RCPT TO:<ada@example.com>');
    expect(received.join('')).toContain('real mail');
    expect(await effects()).toHaveLength(1);
  } finally {
    server.close();
  }
});

test('mail that the server refuses leaves no line', async () => {
  process.env.SMTP_URL = 'smtp://127.0.0.1:1';
  await expect(act('email.send', { to: 'ada@example.com', subject: 'Hello', body: 'x' })).rejects.toThrow('ECONNREFUSED');
  expect(await effects()).toEqual([]);
});

describe('records in PostgreSQL', () => {
  let database: TestDatabase;
  beforeAll(async () => {
    database = await freshDatabase();
  });
  afterAll(() => database.drop());
  beforeEach(() => {
    process.env.HOLDPOINT_EXAMPLE_DATABASE_URL = database.examplesUrl;
  });

  test('are written once for each key, with one line each', async () => {
    for (const key of ['w1', 'w1', 'w2']) await act('db.write', { key: 'customer/7', value: { plan: key } }, key);
    const client = new pg.Client({ connectionString: database.adminUrl });
    await client.connect();
    const { rows } = await client.query('SELECT idempotency_key, key, value FROM examples.records ORDER BY idempotency_key');
    await client.end();
    expect(rows).toEqual([
      { idempotency_key: 'w1', key: 'customer/7', value: { plan: 'w1' } },
      { idempotency_key: 'w2', key: 'customer/7', value: { plan: 'w2' } },
    ]);
    expect((await effects()).map((line) => line.idempotency_key)).toEqual(['w1', 'w2']);
  });

  test('are found by what they say, newest version only', async () => {
    await act('db.write', { key: 'article/refunds', value: 'Refunds take a WEEK' }, 'a1');
    await act('db.write', { key: 'article/refunds', value: 'Refunds take a day' }, 'a2');
    expect(await act('search.read', { query: 'refunds' })).toEqual({ records: [{ key: 'article/refunds', value: 'Refunds take a day' }] });
    expect(await act('search.read', { query: 'week' })).toEqual({ records: [] });
    expect(await act('search.read', { query: "%' OR true --" })).toEqual({ records: [] });
  });

  test('hold a value with a NUL or are refused with a message, and leave no line behind then', async () => {
    const outcome = await act('db.write', { key: 'k', value: 'a\u0000b' }, 'nul').then(
      () => 'written',
      (error: Error) => error.message,
    );
    expect(outcome).toMatch(/written|unicode|Unicode|\\u0000/);
    expect((await effects()).length).toBe(outcome === 'written' ? 1 : 0);
  });

  test('without a database are an error that names the variable', async () => {
    delete process.env.HOLDPOINT_EXAMPLE_DATABASE_URL;
    await expect(act('db.write', { key: 'k', value: 1 })).rejects.toThrow('HOLDPOINT_EXAMPLE_DATABASE_URL is not set');
    expect(await effects()).toEqual([]);
  });
});

describe('http.get', () => {
  let server: Server;
  let origin = '';
  beforeAll(async () => {
    server = createServer((request, response) => {
      const url = new URL(request.url ?? '/', 'http://x');
      if (url.pathname === '/big') return void response.end('x'.repeat(2_000_000));
      if (url.pathname === '/hang') return void response.write('begins…');
      if (url.pathname.startsWith('/to/')) return void response.writeHead(302, { location: decodeURIComponent(url.pathname.slice(4)) }).end();
      if (url.pathname === '/loop') return void response.writeHead(302, { location: '/loop' }).end();
      response.writeHead(url.pathname === '/missing' ? 404 : 200, { 'content-type': 'text/plain' }).end(`you asked for ${url.pathname}`);
    }).listen(0, '127.0.0.1');
    await once(server, 'listening');
    origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  afterAll(() => {
    server.closeAllConnections();
    server.close();
  });
  beforeEach(() => {
    process.env.HOLDPOINT_HTTP_ALLOW_LOOPBACK = '1';
  });

  test('answers with status, type and body, and follows a redirect', async () => {
    expect(await act('http.get', { url: `${origin}/a` })).toEqual({ status: 200, content_type: 'text/plain', body: 'you asked for /a', cut: false });
    expect(await act('http.get', { url: `${origin}/missing` })).toMatchObject({ status: 404 });
    expect(await act('http.get', { url: `${origin}/to/%2Fb` })).toMatchObject({ body: 'you asked for /b' });
    expect(await effects()).toEqual([]);
  });

  test('keeps one megabyte of a longer body and says that it cut', async () => {
    const answer = (await act('http.get', { url: `${origin}/big` })) as { body: string; cut: boolean };
    expect([answer.body.length, answer.cut]).toEqual([1_048_576, true]);
  });

  test('gives up after three redirects', async () => {
    await expect(act('http.get', { url: `${origin}/loop` })).rejects.toThrow('more than 3 redirects');
  });

  test('stops when the tool is told to stop', async () => {
    const tool = tools.get('http.get');
    const abort = new AbortController();
    setTimeout(() => abort.abort(), 100);
    await expect(tool?.execute({ url: `${origin}/hang` }, { ...context(), signal: abort.signal })).rejects.toThrow(/abort/i);
  });

  test.each([
    ['http://169.254.169.254/latest/meta-data/'],
    ['http://10.0.0.1/'],
    ['http://[::ffff:10.0.0.1]/'],
    ['http://0.0.0.0/'],
    ['http://2130706433/x'.replace('2130706433', '167772161')],
    ['http://0x0a000001/'],
    ['http://[fd00::1]/'],
    ['file:///etc/passwd'],
    ['ftp://example.com/'],
    ['gopher://example.com/'],
  ])('does not call %s, not by a redirect either', async (url) => {
    await expect(act('http.get', { url })).rejects.toThrow(/not an address that http\.get calls|takes http and https/);
    await expect(act('http.get', { url: `${origin}/to/${encodeURIComponent(url)}` })).rejects.toThrow(
      /not an address that http\.get calls|takes http and https/,
    );
  });

  test('judges the address that a name leads to, when it connects', async () => {
    delete process.env.HOLDPOINT_HTTP_ALLOW_LOOPBACK;
    await expect(act('http.get', { url: origin.replace('127.0.0.1', 'localhost') })).rejects.toThrow(
      /localhost leads to (127\.0\.0\.1|::1), which http\.get does not call/,
    );
    await expect(act('http.get', { url: origin })).rejects.toThrow('127.0.0.1 is not an address that http.get calls');
  });

  test.each([
    ['8.8.8.8', false],
    ['1.1.1.1', false],
    ['2606:4700:4700::1111', false],
    ['127.8.9.1', true],
    ['172.16.0.1', true],
    ['172.32.0.1', false],
    ['192.168.1.1', true],
    ['100.64.0.1', true],
    ['169.254.169.254', true],
    ['224.0.0.1', true],
    ['255.255.255.255', true],
    ['::', true],
    ['::1', true],
    ['::ffff:127.0.0.1', true],
    ['::ffff:8.8.8.8', true],
    ['::7f00:1', true],
    ['64:ff9b::a00:1', true],
    ['2002:a00:1::', true],
    ['fe80::1', true],
    ['fe80::1%eth0', true],
    ['fd12::1', true],
    ['ff02::1', true],
    ['no address', true],
  ])('the address %s is forbidden: %s', (address, expected) => {
    delete process.env.HOLDPOINT_HTTP_ALLOW_LOOPBACK;
    expect(isForbiddenAddress(address)).toBe(expected);
  });
});
