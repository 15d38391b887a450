// One run file per recorded run, to start them by hand: npx tsx examples/airline/run-files.ts FOLDER
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { recordings, runInputOf } from './recordings.ts';

const [folder] = process.argv.slice(2);
if (folder === undefined) {
  process.stderr.write('usage: npx tsx examples/airline/run-files.ts FOLDER\n');
  process.exit(2);
}
mkdirSync(folder, { recursive: true });
for (const recording of recordings) writeFileSync(join(folder, `${recording.id}.json`), `${JSON.stringify(runInputOf(recording), null, 2)}\n`);
process.stdout.write(`${recordings.length} run files in ${folder}\n`);
