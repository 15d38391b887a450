/** The workflow code as one script for Temporal's sandbox: prebuilt where there is a build, else made at start. */
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { bundleWorkflowCode, DefaultLogger, type WorkflowBundleOption } from '@temporalio/worker';

const isBuilt = import.meta.url.endsWith('.js');
const extension = isBuilt ? '.js' : '.ts';
const pathOf = (file: string): string => fileURLToPath(new URL(file, import.meta.url));

const converterPath = pathOf(`../workflows/payload-converter${extension}`);

/**
 * Data converter of workers and clients. From source it is the SDK's own: Node cannot require TypeScript, and what
 * matters, the sandbox, has the converter in its bundle either way.
 */
export const dataConverter: { payloadConverterPath?: string } = isBuilt ? { payloadConverterPath: converterPath } : {};

/**
 * The SDK notes a stack trace for every promise that a workflow makes, for the "Call Stack" of Temporal Web. That is more than
 * half of the CPU of a workflow task: five thousand signals took 6.2 s with traces and 2.2 s without. What a run waits for
 * is in its current details, in words. Set here, since the sandbox freezes `Error` before workflow code runs; without a line
 * break, which would shift the source map.
 */
const NO_STACK_TRACES = 'Error.stackTraceLimit = 0;';

export async function buildWorkflowBundle(): Promise<{ code: string }> {
  const { code } = await bundleWorkflowCode({
    workflowsPath: pathOf(`../workflows/index${extension}`),
    payloadConverterPath: converterPath,
    logger: new DefaultLogger('WARN'),
  });
  return { code: NO_STACK_TRACES + code };
}

export async function loadWorkflowBundle(): Promise<WorkflowBundleOption> {
  const prebuilt = pathOf('../workflow-bundle.js');
  return isBuilt && existsSync(prebuilt) ? { codePath: prebuilt } : buildWorkflowBundle();
}
