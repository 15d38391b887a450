/** Where the `temporal` program comes from. */
import { ARCH, ensurePrograms, findPrograms, type Environment, type ProgramSet, type Report } from './programs.ts';

/** Version that is downloaded or built. Later ones can't be installed by `go install`. */
export const TEMPORAL_CLI_VERSION = '1.5.1';

const COMMAND_LINE: ProgramSet = {
  title: `the Temporal command line ${TEMPORAL_CLI_VERSION}`,
  folder: `temporal-${TEMPORAL_CLI_VERSION}`,
  programs: [{ name: 'temporal', goPackage: 'github.com/temporalio/cli/cmd/temporal' }],
  goVersion: `v${TEMPORAL_CLI_VERSION}`,
  archive: `https://temporal.download/cli/archive/v${TEMPORAL_CLI_VERSION}?platform=${process.platform}&arch=${ARCH}`,
  archiveMegabytes: 60,
  hint: [
    'any one of these mends it:',
    '  put `temporal` on PATH (https://docs.temporal.io/cli#install)',
    `  go install github.com/temporalio/cli/cmd/temporal@v${TEMPORAL_CLI_VERSION} (needs Go, https://go.dev/dl), with its bin folder on PATH`,
    '  TEMPORAL_ADDRESS=host:7233 holdpoint up, to use a Temporal server that runs already',
  ].join('\n'),
};

/** Path of the program when it is there already, without fetching anything. */
export async function findTemporal(env: Environment = process.env): Promise<string | undefined> {
  return (await findPrograms(COMMAND_LINE, env))?.[0];
}

/** Path of the program, fetched into the cache when needed. Two processes may ask at once. */
export async function ensureTemporal(report: Report, env: Environment = process.env): Promise<string> {
  const [program = ''] = await ensurePrograms(COMMAND_LINE, report, env);
  return program;
}
