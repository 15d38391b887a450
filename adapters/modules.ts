/** Loads the modules that a configuration names: JavaScript as it is, TypeScript through tsx. */
import { pathToFileURL } from 'node:url';
import { tsImport } from 'tsx/esm/api';
import { HoldpointError, messageOf } from '../core/errors.ts';

/** @param path absolute path, or the specifier of a built-in module */
export async function loadModule(path: string): Promise<Record<string, unknown>> {
  try {
    if (path === EXAMPLES) return (await import('./example-tools/index.ts')) as Record<string, unknown>;
    const url = pathToFileURL(path).href;
    const loaded: unknown = /\.[mc]?tsx?$/.test(path) ? await tsImport(url, import.meta.url) : await import(url);
    return flattened(loaded as Record<string, unknown>);
  } catch (error) {
    throw new HoldpointError('invalid_config', `the module ${path} cannot be loaded: ${messageOf(error)}`, { cause: error });
  }
}

/** Specifier of the example tools that come with the product. */
export const EXAMPLES = 'holdpoint:examples';

/** A CommonJS module's exports arrive below `default`. */
function flattened(module: Record<string, unknown>): Record<string, unknown> {
  const inner = module.default;
  const isCommonJs = typeof inner === 'object' && inner !== null && '__esModule' in inner;
  return isCommonJs ? { ...(inner as Record<string, unknown>) } : module;
}
