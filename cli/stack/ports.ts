/** TCP ports of the loopback interface. */
import { createServer } from 'node:net';
import { HoldpointError } from '../../core/errors.ts';

/** A port that was free a moment ago. */
export async function freePort(): Promise<number> {
  const port = await tryListen(0);
  if (port === undefined) throw new HoldpointError('internal', 'no free TCP port on 127.0.0.1');
  return port;
}

/** Several different free ports: all are held until all are found. */
export async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) ports.add(await freePort());
  return [...ports];
}

/** The port itself, or a free one for 0. Refuses a port that is taken, with the flag that chooses another. */
export async function claimPort(port: number, what: string, flag: string): Promise<number> {
  if (port === 0) return await freePort();
  if ((await tryListen(port)) !== undefined) return port;
  throw new HoldpointError('missing_part', `port ${port}, meant for ${what}, is taken by another program`, {
    hint: `choose another with ${flag} PORT, or let one be picked: ${flag} 0`,
    details: { port, flag },
  });
}

function tryListen(port: number): Promise<number | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', () => resolve(undefined));
    server.listen({ port, host: '127.0.0.1', exclusive: true }, () => {
      const address = server.address();
      const found = typeof address === 'object' && address !== null ? address.port : undefined;
      server.close(() => resolve(found));
    });
  });
}
