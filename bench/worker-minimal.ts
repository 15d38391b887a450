/** The minimal workflow, unchanged, in a worker of its own. Its activities are called unchanged, too, between two time stamps. */
import { fileURLToPath } from 'node:url';
import { loadClientConnectConfig } from '@temporalio/envconfig';
import { DefaultLogger, bundleWorkflowCode, NativeConnection, Worker } from '@temporalio/worker';
import * as minimal from './minimal/minimal-activities.ts';
import { type BenchArgs, installQuietRuntime, LIMITS, TASK_QUEUE, tell, workUntilTold } from './worker-common.ts';

installQuietRuntime();
const asked = new Map<string, number>();
const place = ({ run }: BenchArgs, calls: Map<string, number>): BenchArgs => {
  const call = (calls.get(run) ?? 0) + 1;
  calls.set(run, call);
  return { run, call };
};
const executed = new Map<string, number>();
const activities = {
  policy(tool: string, args: BenchArgs) {
    tell('asked', place(args, asked));
    return minimal.policy(tool, args);
  },
  execute(tool: string, args: BenchArgs) {
    tell('effect', place(args, executed));
    return minimal.execute(tool, args);
  },
};
const { connectionOptions, namespace = 'default' } = loadClientConnectConfig();
const worker = await Worker.create({
  connection: await NativeConnection.connect(connectionOptions),
  namespace,
  taskQueue: TASK_QUEUE,
  activities,
  workflowBundle: await bundleWorkflowCode({
    workflowsPath: fileURLToPath(new URL('minimal/minimal-workflow.ts', import.meta.url)),
    logger: new DefaultLogger('ERROR'),
  }),
  ...LIMITS,
});
await workUntilTold(worker);
