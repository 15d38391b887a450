/** Text that a command is given: a file, or stdin. */
import { readFile } from 'node:fs/promises';
import { type ErrorCode, HoldpointError, isHoldpointError, messageOf } from '../core/errors.ts';
import { LIMITS } from '../core/words.ts';

/** @param file `-` reads stdin. @param what is expected there: `run file` */
export async function readText(file: string, code: ErrorCode, what: string): Promise<string> {
  try {
    const bytes = file === '-' ? await readStdin() : await readFile(file);
    if (bytes.length > LIMITS.runFile) throw new HoldpointError(code, `${file} has ${bytes.length} bytes; a ${what} has at most ${LIMITS.runFile}`);
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes);
  } catch (error) {
    if (isHoldpointError(error)) throw error;
    if (error instanceof TypeError) throw new HoldpointError(code, `${file} is not UTF-8 text`, { cause: error });
    throw new HoldpointError(code, `${file} cannot be read: ${messageOf(error)}`, {
      cause: error,
      hint: `give the path of a JSON or YAML ${what}, or - for stdin`,
    });
  }
}

async function readStdin(): Promise<Buffer> {
  const chunks: Buffer[] = [];
  let bytes = 0;
  for await (const chunk of process.stdin) {
    chunks.push(chunk as Buffer);
    bytes += (chunk as Buffer).length;
    if (bytes > LIMITS.runFile) break;
  }
  return Buffer.concat(chunks);
}
