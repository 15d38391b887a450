/** Progress on stderr: one living line on a terminal, else a plain line every few seconds. */
export interface Progress {
  report: (line: string) => void;
  done: () => void;
}

const PLAIN_EVERY_MS = 5_000;

export function startProgress(stream: NodeJS.WriteStream = process.stderr): Progress {
  const living = stream.isTTY === true && process.env.TERM !== 'dumb';
  if (living) {
    return {
      report: (line) => void stream.write(`\r\u001b[K${line.slice(0, (stream.columns ?? 80) - 1)}`),
      done: () => void stream.write('\r\u001b[K'),
    };
  }
  let next = 0;
  return {
    report: (line) => {
      if (performance.now() < next) return;
      next = performance.now() + PLAIN_EVERY_MS;
      stream.write(`${line}\n`);
    },
    done: () => {},
  };
}
