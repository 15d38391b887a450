/** The public surface, spelled out: an export that comes or goes is a decision. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import * as tools from '../../activities/define.ts';
import * as client from '../../client/index.ts';
import * as core from '../../core/index.ts';
import * as worker from '../../worker/index.ts';
import { readSource, ROOT } from './sources.ts';

interface Manifest {
  exports: Record<string, string | { types: string; default: string }>;
  bin: Record<string, string>;
  files: string[];
}
const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as Manifest;

/** `./dist/client/index.d.ts` → `client/index.ts`. */
const sourceOf = (built: string): string => built.replace(/^(\.\/)?dist\//, '').replace(/(\.d\.ts|\.js)$/, '.ts');

/** Names that a module exports as types only. */
function typesOf(path: string): string[] {
  const { text } = readSource(path);
  const declared = [...text.matchAll(/^export (?:interface|type) (\w+)/gm)].map(([, name = '']) => name);
  const listed = [...text.matchAll(/^export (type )?\{([^}]*)\}/gm)].flatMap(([, all, list = '']) =>
    list
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== '' && (all !== undefined || item.startsWith('type ')))
      .map((item) => item.replace(/^type /, '')),
  );
  return [...new Set([...declared, ...listed])].sort();
}

describe('package.json', () => {
  test('exports these entries and no other', () => {
    expect(Object.keys(manifest.exports)).toEqual(['.', './core', './tools', './workflows', './worker', './package.json']);
  });

  test('names sources that exist, types and code of the same one', () => {
    for (const [entry, target] of Object.entries(manifest.exports)) {
      if (typeof target === 'string') continue;
      expect(sourceOf(target.types), entry).toBe(sourceOf(target.default));
      expect(existsSync(join(ROOT, sourceOf(target.default))), `${entry} → ${sourceOf(target.default)}`).toBe(true);
    }
    for (const target of Object.values(manifest.bin)) expect(existsSync(join(ROOT, sourceOf(target))), target).toBe(true);
  });

  test('ships the JSON Schema of holdpoint.yaml', () => {
    expect(manifest.files).toContain('holdpoint.schema.json');
    expect(existsSync(join(ROOT, 'holdpoint.schema.json'))).toBe(true);
  });
});

test('holdpoint: what the client gives', () => {
  expect(Object.keys(client).sort()).toEqual(['HoldpointClient', 'HoldpointError', 'isHoldpointError']);
  expect([...new Set([...typesOf('client/index.ts'), ...typesOf('client/types.ts')])].sort()).toEqual([
    'ApprovalView',
    'AuditEvent',
    'AuditFinding',
    'AuditOutcome',
    'AuditPage',
    'AuditReport',
    'CallSummary',
    'ClientOptions',
    'ControlView',
    'DecisionAnswer',
    'DecisionOutcome',
    'ErrorCode',
    'ExportLine',
    'HumanAnswer',
    'PendingView',
    'Problem',
    'RecordedCall',
    'RecordedCallsPage',
    'RequestStatus',
    'RunInput',
    'RunState',
    'RunView',
    'StopReason',
    'Usage',
    'Vote',
    'WhoAmI',
  ]);
});

test('holdpoint/core: contracts, words and rules', () => {
  expect(Object.keys(core).sort()).toEqual([
    'AUDIT_OUTCOMES',
    'ApprovalClaims',
    'DecisionRequest',
    'ERROR_TABLE',
    'GENESIS',
    'HoldpointError',
    'LIMITS',
    'PolicyFile',
    'Rule',
    'RunFile',
    'SEARCH_ATTRIBUTES',
    'STOP_REASONS',
    'SYSTEM_RUN',
    'TOKEN_AUDIENCE',
    'TOKEN_ISSUER',
    'TOKEN_TYP',
    'UNVERIFIED_AGENT',
    'canDecide',
    'chainEvent',
    'decideApproval',
    'evaluatePolicy',
    'evolve',
    'exhaustedBudget',
    'hashMatches',
    'isHoldpointError',
    'matchesTool',
    'missingVotes',
    'resolutionOf',
  ]);
  expect(typesOf('core/index.ts')).toEqual([
    'ApprovalCommand',
    'ApprovalEvent',
    'ApprovalRefusal',
    'ApprovalState',
    'AuditEvent',
    'AuditFacts',
    'AuditOutcome',
    'CallSummary',
    'CommittedVote',
    'ConditionAnswer',
    'ConditionProblem',
    'Conditions',
    'DecisionOutcome',
    'ErrorCode',
    'ExhaustedBudget',
    'HashJson',
    'PendingView',
    'PolicyCall',
    'PolicyDecision',
    'PolicyFacts',
    'PolicyOutcome',
    'RequestStatus',
    'RunResult',
    'RunState',
    'Stop',
    'StopReason',
    'Usage',
  ]);
});

test('holdpoint/tools: what authors of tools and planners need', () => {
  expect(Object.keys(tools).sort()).toEqual(['definePlanner', 'defineTool']);
  expect(typesOf('activities/define.ts')).toEqual(['PlannerDefinition', 'PlannerInput', 'PlannerOutput', 'ToolContext', 'ToolDefinition', 'TranscriptEntry']);
});

test('holdpoint/worker: a worker to embed', () => {
  expect(Object.keys(worker).sort()).toEqual(['createWorker', 'definePlanner', 'defineTool', 'readWorkerConfig']);
  expect(typesOf('worker/index.ts')).toEqual(['EmbeddedWorkerOptions', 'HoldpointWorker', 'PlannerDefinition', 'ToolDefinition', 'WorkerConfig']);
});
