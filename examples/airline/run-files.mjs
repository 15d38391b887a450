// Writes one run file per recorded run: node examples/airline/run-files.mjs FOLDER
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const [folder] = process.argv.slice(2);
if (folder === undefined) {
  process.stderr.write('usage: node examples/airline/run-files.mjs FOLDER\n');
  process.exit(2);
}
mkdirSync(folder, { recursive: true });
for (const line of readFileSync(new URL('./runs.jsonl', import.meta.url), 'utf8')
  .trimEnd()
  .split('\n')) {
  const recorded = JSON.parse(line);
  const file = join(folder, `${recorded.id}.json`);
  writeFileSync(file, `${JSON.stringify(runFileOf(recorded), null, 2)}\n`);
  process.stdout.write(`${file}\n`);
}

/** The recorded calls become the script of a planner, so that the same agent acts again, word for word. */
function runFileOf({ goal, calls }) {
  const script = calls.map(({ tool, args }) => ({ tool, args }));
  return { agent: 'airline-agent', requester: customerOf(goal), goal, planner: { type: 'script', calls: script } };
}

/** Every goal names the customer by their user id. */
function customerOf(goal) {
  const [userId] = /\b[a-z]+_[a-z]+_\d{4}\b/.exec(goal) ?? [];
  if (userId === undefined) throw new Error(`no user id in the goal: ${goal.slice(0, 80)}`);
  return userId;
}
