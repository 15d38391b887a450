// Makes ./secrets for docker-compose.yml: passwords of the databases' roles and the identities of an operator and an approver.
// Their API keys are printed once; the file holds hashes. Refuses to overwrite. Needs Node and nothing else.
// usage: node deploy/make-secrets.mjs [folder of the project]
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const PASSWORDS = ['postgres_password', 'temporal_db_password', 'owner_db_password', 'worker_db_password', 'serve_db_password'];
const IDENTITIES = ['operator', 'approver'];
const VARIABLE = 'HOLDPOINT_SECRETS_DIR';

const project = resolve(process.argv[2] ?? dirname(dirname(fileURLToPath(import.meta.url))));
const folder = join(project, 'secrets');
if (existsSync(folder)) fail(`${folder} is there already. Nothing was changed. To begin anew, move it away first: the database knows its passwords.`);

const random = () => randomBytes(32).toString('base64url');
const keys = Object.fromEntries(IDENTITIES.map((role) => [role, `hp_${random()}`]));
const identities = IDENTITIES.map((role) => ({ principal: role, roles: [role], key_sha256: createHash('sha256').update(keys[role]).digest('hex') }));
const files = {
  ...Object.fromEntries(PASSWORDS.map((name) => [name, `${random()}\n`])),
  'identities.json': `${JSON.stringify({ identities }, null, 2)}\n`,
};

// All files or none: made beside, renamed.
const beside = join(project, `.secrets-${process.pid}`);
process.on('exit', () => rmSync(beside, { recursive: true, force: true }));
// The folder keeps others on this machine out. The files can be read by every user inside the one container that mounts each.
mkdirSync(beside, { mode: 0o700 });
for (const [name, text] of Object.entries(files)) writeFileSync(join(beside, name), text, { mode: 0o444 });
renameSync(beside, folder);
nameFolder(join(project, '.env'));

process.stderr.write(`The secrets are in ${folder}. The two API keys are shown this once:\n`);
for (const role of IDENTITIES) process.stdout.write(`HOLDPOINT_${role.toUpperCase()}_KEY=${keys[role]}\n`);

/** Compose reads `.env`; without the variable it stops and names this script. */
function nameFolder(file) {
  const text = existsSync(file) ? readFileSync(file, 'utf8') : '';
  if (new RegExp(`^${VARIABLE}=`, 'm').test(text)) return;
  writeFileSync(file, `${text === '' || text.endsWith('\n') ? text : `${text}\n`}${VARIABLE}=./secrets\n`);
}

function fail(message) {
  process.stderr.write(`${message}\n`);
  process.exit(1);
}
