import { z } from 'zod';
import { PolicyFile } from '../core/contracts.ts';

/** JSON Schema of `holdpoint.yaml` for editors. What needs more than a schema (duplicate ids, scope) is checked at load. */
export function policyJsonSchema(): Record<string, unknown> {
  const { $schema, ...schema } = z.toJSONSchema(PolicyFile, { io: 'input' });
  return { $schema, title: 'holdpoint.yaml', description: 'What agents may do, what must be asked, what never happens.', ...schema };
}
