// Writes holdpoint.schema.json, the JSON Schema of holdpoint.yaml, from the contract in core/contracts.ts.
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { tsImport } from 'tsx/esm/api';

const { policyJsonSchema } = await tsImport('../adapters/policy-schema.ts', import.meta.url);
writeFileSync(fileURLToPath(new URL('../holdpoint.schema.json', import.meta.url)), `${JSON.stringify(policyJsonSchema(), null, 2)}\n`);
