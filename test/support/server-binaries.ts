/** Where the programs of the full Temporal server come from. */
import { ARCH, ensurePrograms, type Environment, type ProgramSet, type Report } from '../../cli/stack/programs.ts';

const VERSION = '1.29.1';

export interface ServerBinaries {
  server: string;
  /** The schema of the databases is inside it. */
  sqlTool: string;
}

const SERVER: ProgramSet = {
  title: `the Temporal server ${VERSION}`,
  folder: `temporal-server-${VERSION}`,
  programs: [
    { name: 'temporal-server', goPackage: 'go.temporal.io/server/cmd/server' },
    { name: 'temporal-sql-tool', goPackage: 'go.temporal.io/server/cmd/tools/sql' },
  ],
  goVersion: `v${VERSION}`,
  archive: `https://github.com/temporalio/temporal/releases/download/v${VERSION}/temporal_${VERSION}_${process.platform}_${ARCH}.tar.gz`,
  archiveMegabytes: 90,
  hint: [
    'any one of these mends it:',
    `  put temporal-server and temporal-sql-tool on PATH (https://github.com/temporalio/temporal/releases/tag/v${VERSION})`,
    '  install Go (https://go.dev/dl), which builds them once',
  ].join('\n'),
};

/** Paths of the programs, fetched into the cache when needed. Two processes may ask at once. */
export async function ensureServerBinaries(report: Report, env: Environment = process.env): Promise<ServerBinaries> {
  const [server = '', sqlTool = ''] = await ensurePrograms(SERVER, report, env);
  return { server, sqlTool };
}
