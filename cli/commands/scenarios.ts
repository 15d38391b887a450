/** The runs of the demo. */
import type { RunFile } from '../../core/contracts.ts';

const who = { agent: 'demo-agent', requester: 'demo' };

/** Scenario 1, also the run of `npm start`: a mail that waits for a person. */
export function demoEmailRun(): RunFile {
  return {
    ...who,
    goal: 'Tell the customer that the refund is on its way',
    planner: {
      type: 'script',
      calls: [
        {
          tool: 'email.send',
          args: { to: 'ada@example.com', subject: 'Your refund', body: 'Hello Ada,\n\nyour refund of 42.00 EUR is on its way.\n' },
          reason: 'The customer asked for it and the order qualifies.',
        },
      ],
    },
  };
}

/** Scenario 2: a write that nobody answers. */
export function demoDatabaseRun(): RunFile {
  return {
    ...who,
    goal: 'Raise a credit limit',
    planner: {
      type: 'script',
      calls: [
        { tool: 'db.write', args: { key: 'customer-7/credit-limit', value: { amount: 5000, currency: 'EUR' } }, reason: 'The limit is too low for the order.' },
      ],
    },
    ttl_seconds: 5,
  };
}

/** Scenario 3: a write that the policy leaves out of scope. */
export function demoOutOfScopeRun(): RunFile {
  return {
    ...who,
    goal: 'Tidy up the contacts',
    planner: { type: 'script', calls: [{ tool: 'crm.delete_contact', args: { contact_id: 'C-1042' }, reason: 'It looks like a duplicate.' }] },
  };
}
