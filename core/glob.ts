/** Globs over tool names. */

export const matchesAny = (patterns: readonly string[], tool: string): boolean => patterns.some((pattern) => matchesTool(pattern, tool));

/** `*` stands for any run of characters. Linear in both lengths: no expression is built from a file. */
export function matchesTool(pattern: string, tool: string): boolean {
  const star = pattern.indexOf('*');
  if (star < 0) return pattern === tool;
  const head = pattern.slice(0, star);
  // Most patterns part here, before anything is split.
  if (!tool.startsWith(head)) return false;
  const parts = pattern.split('*');
  const tail = parts.at(-1) ?? '';
  if (!tool.endsWith(tail) || tool.length < head.length + tail.length) return false;
  let at = head.length;
  const end = tool.length - tail.length;
  for (const part of parts.slice(1, -1)) {
    const found = tool.indexOf(part, at);
    if (found < 0 || found + part.length > end) return false;
    at = found + part.length;
  }
  return true;
}
