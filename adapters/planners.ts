/** Planners: a script of calls, or a module that users write. */
import type { PlannerDefinition } from '../activities/define.ts';
import type { Planners } from '../activities/ports.ts';
import { HoldpointError } from '../core/errors.ts';
import { loadModule } from './modules.ts';

/** @param modules planner name → absolute path of its module */
export async function loadPlanners(modules: Readonly<Record<string, string>>): Promise<Planners> {
  const planners = new Map<string, PlannerDefinition>();
  for (const [name, path] of Object.entries(modules)) planners.set(name, plannerIn(await loadModule(path), path));
  return {
    async plan(planner, step, input) {
      if (planner.type === 'script') {
        const call = planner.calls[step - 1];
        return call ? { calls: [call] } : { done: true };
      }
      const found = planners.get(planner.name);
      if (!found)
        throw new HoldpointError('invalid_run', `no planner is configured as ${planner.name}`, { hint: 'name its module under planners: in holdpoint.yaml' });
      return found.plan(input);
    },
  };
}

function plannerIn(module: Record<string, unknown>, path: string): PlannerDefinition {
  for (const candidate of [module, module.default]) {
    if (typeof candidate === 'object' && candidate !== null && 'plan' in candidate && typeof candidate.plan === 'function')
      return candidate as PlannerDefinition;
  }
  throw new HoldpointError('invalid_config', `${path} exports no planner`, {
    hint: 'export default definePlanner({ async plan({ goal, transcript, refusals }) { ... } })',
  });
}
