/** The source files and what they import, read from their text. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, posix } from 'node:path';
import { fileURLToPath } from 'node:url';

export const ROOT = fileURLToPath(new URL('../../', import.meta.url));
export const FOLDERS = ['core', 'workflows', 'activities', 'adapters', 'client', 'worker', 'server', 'cli'] as const;
export type Folder = (typeof FOLDERS)[number];

export interface Import {
  /** Path from the root for a relative specifier, else the specifier: `core/words.ts`, `zod`. */
  target: string;
  /** A whole `import type` or `export type`: the only form of which nothing is left at run time. */
  typeOnly: boolean;
}

export interface Source {
  /** Path from the root, with slashes. */
  path: string;
  text: string;
  imports: Import[];
}

/** `from` clauses, bare imports, and `import()` of a literal. */
const IMPORT =
  /^[ \t]*(?:import|export)[ \t]+(?<type>type[ \t]+)?(?:[\w*$ \t,]*\{[^}]*\}|[\w*$ \t,]+)\s*from\s*['"](?<from>[^'"]+)['"]|^[ \t]*import[ \t]+['"](?<bare>[^'"]+)['"]|(?<![\w.])(?:import|tsImport|require)\(\s*['"](?<dynamic>[^'"]+)['"]/gm;

export function importsOf(text: string, path: string): Import[] {
  return [...withoutComments(text).matchAll(IMPORT)].map(({ groups = {} }) => {
    const specifier = groups.from ?? groups.bare ?? groups.dynamic ?? '';
    return { target: specifier.startsWith('.') ? posix.join(posix.dirname(path), specifier) : specifier, typeOnly: groups.type !== undefined };
  });
}

/** The text with whole-line and block comments blanked; lines stay where they are. */
export function withoutComments(text: string): string {
  const blank = (comment: string): string => comment.replace(/[^\n]/g, ' ');
  return text.replace(/^[ \t]*\/\*[\s\S]*?\*\//gm, blank).replace(/^[ \t]*\/\/.*$/gm, blank);
}

export function readSource(path: string): Source {
  const text = readFileSync(join(ROOT, path), 'utf8');
  return { path, text, imports: importsOf(text, path) };
}

/** Every TypeScript file below a folder. */
export function sourcesOf(folder: Folder): Source[] {
  return readdirSync(join(ROOT, folder), { recursive: true, encoding: 'utf8' })
    .map((file) => `${folder}/${file.replaceAll('\\', '/')}`)
    .filter((path) => path.endsWith('.ts'))
    .sort()
    .map(readSource);
}

export function allSources(): Source[] {
  return FOLDERS.flatMap(sourcesOf);
}

/** All that is loaded at run time when `entry` is: own files and packages. */
export function loadedBy(entry: string): Set<string> {
  const seen = new Set<string>();
  const visit = (path: string): void => {
    if (seen.has(path)) return;
    seen.add(path);
    if (!path.endsWith('.ts')) return;
    for (const { target, typeOnly } of readSource(path).imports) if (!typeOnly) visit(target);
  };
  visit(entry);
  return seen;
}
