/** Runs a foreign workflow under any id, on a worker of its own, against the gateway of the parts. */
import { randomUUID } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger, NativeConnection, Runtime, Worker } from '@temporalio/worker';
import type { CallInput } from '../../core/run-contract.ts';
import { connectionOptions } from '../support/environment.ts';
import type { Parts } from './parts.ts';

Runtime.install({ logger: new DefaultLogger('ERROR') });
let bundle: Promise<{ code: string }> | undefined;

export async function foreignCall(parts: Parts, workflowId: string, input: CallInput): Promise<unknown> {
  bundle ??= bundleWorkflowCode({ workflowsPath: fileURLToPath(new URL('./foreign-workflow.ts', import.meta.url)), logger: new DefaultLogger('ERROR') });
  const connection = await NativeConnection.connect(connectionOptions(parts.temporalEnvironment));
  const taskQueue = `foreign-${randomUUID()}`;
  const worker = await Worker.create({ connection, taskQueue, workflowBundle: await bundle });
  try {
    const client = await parts.temporal();
    return await worker.runUntil(
      client.workflow.execute('foreign', { workflowId, taskQueue, args: [parts.taskQueue, input], workflowIdReusePolicy: 'ALLOW_DUPLICATE' }),
    );
  } catch (error) {
    return { failed: String(error) };
  } finally {
    await connection.close();
  }
}
