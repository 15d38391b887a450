/** GET with a guard against requests to places that only this machine can reach. */
import { lookup as resolveName } from 'node:dns';
import { type IncomingMessage, get as httpGet } from 'node:http';
import { get as httpsGet } from 'node:https';
import { BlockList, isIP, type LookupFunction } from 'node:net';

const MAX_BYTES = 1_048_576;
const MAX_REDIRECTS = 3;
const TIMEOUT_MS = 10_000;

/** Two lists: in one, Node takes an IPv4 address for its IPv6-mapped form, and the net of those would cover every IPv4 address. */
const FORBIDDEN = {
  ipv4: blockList('ipv4', [
    '0.0.0.0/8',
    '10.0.0.0/8',
    '100.64.0.0/10',
    '127.0.0.0/8',
    '169.254.0.0/16',
    '172.16.0.0/12',
    '192.0.0.0/24',
    '192.0.2.0/24',
    '192.88.99.0/24',
    '192.168.0.0/16',
    '198.18.0.0/15',
    '198.51.100.0/24',
    '203.0.113.0/24',
    '224.0.0.0/4',
    '240.0.0.0/4',
  ]),
  ipv6: blockList('ipv6', [
    '::/96',
    '::ffff:0:0/96',
    '64:ff9b::/96',
    '64:ff9b:1::/48',
    '100::/64',
    '2001::/23',
    '2001:db8::/32',
    '2002::/16',
    '3fff::/20',
    'fc00::/7',
    'fe80::/10',
    'fec0::/10',
    'ff00::/8',
  ]),
};

function blockList(family: 'ipv4' | 'ipv6', nets: readonly string[]): BlockList {
  const list = new BlockList();
  for (const net of nets) {
    const [address = '', bits] = net.split('/');
    list.addSubnet(address, Number(bits), family);
  }
  return list;
}

/** True for addresses that are not on the public internet: loopback, private, link-local, metadata, mapped, multicast. */
export function isForbiddenAddress(address: string): boolean {
  const family = isIP(address);
  if (family === 0) return true;
  if (process.env.HOLDPOINT_HTTP_ALLOW_LOOPBACK === '1' && (address === '127.0.0.1' || address === '::1')) return false;
  return family === 6 ? FORBIDDEN.ipv6.check(address, 'ipv6') : FORBIDDEN.ipv4.check(address, 'ipv4');
}

/** Judges the address that is connected to, not the name: a name may answer differently the second time. */
const guardedLookup: LookupFunction = (hostname, options, callback) => {
  resolveName(hostname, { ...options, all: true }, (error, addresses) => {
    if (error) return callback(error, '', 0);
    const bad = addresses.find(({ address }) => isForbiddenAddress(address));
    const [first] = addresses;
    if (bad || !first) return callback(new Error(`${hostname} leads to ${bad?.address ?? 'nowhere'}, which http.get does not call`), '', 0);
    return options.all === true
      ? (callback as unknown as (error: null, addresses: unknown) => void)(null, addresses)
      : callback(null, first.address, first.family);
  });
};

export interface HttpAnswer {
  status: number;
  content_type: string;
  body: string;
  /** True when the body had more than 1 MB. */
  cut: boolean;
}

export async function guardedGet(url: string, signal: AbortSignal, redirects = MAX_REDIRECTS): Promise<HttpAnswer> {
  const target = new URL(url);
  if (target.protocol !== 'http:' && target.protocol !== 'https:') throw new Error(`http.get takes http and https, not ${target.protocol}`);
  const literal = target.hostname.replace(/^\[|\]$/g, '');
  if (isIP(literal) !== 0 && isForbiddenAddress(literal)) throw new Error(`${literal} is not an address that http.get calls`);
  const response = await send(target, signal);
  const status = response.statusCode ?? 0;
  const { location } = response.headers;
  if (status >= 300 && status < 400 && location !== undefined) {
    response.destroy();
    if (redirects === 0) throw new Error(`more than ${MAX_REDIRECTS} redirects`);
    return guardedGet(new URL(location, target).href, signal, redirects - 1);
  }
  return { status, content_type: response.headers['content-type'] ?? '', ...(await readBody(response)) };
}

function send(target: URL, signal: AbortSignal): Promise<IncomingMessage> {
  return new Promise((resolve, reject) => {
    const get = target.protocol === 'https:' ? httpsGet : httpGet;
    const options = {
      lookup: guardedLookup,
      signal: AbortSignal.any([signal, AbortSignal.timeout(TIMEOUT_MS)]),
      headers: { 'user-agent': 'holdpoint-http.get' },
    };
    get(target, options, resolve).on('error', reject);
  });
}

async function readBody(response: IncomingMessage): Promise<{ body: string; cut: boolean }> {
  const chunks: Buffer[] = [];
  let size = 0;
  for await (const chunk of response as AsyncIterable<Buffer>) {
    chunks.push(chunk.subarray(0, MAX_BYTES - size));
    size += chunk.length;
    if (size > MAX_BYTES) {
      response.destroy();
      return { body: Buffer.concat(chunks).toString('utf8'), cut: true };
    }
  }
  return { body: Buffer.concat(chunks).toString('utf8'), cut: false };
}
