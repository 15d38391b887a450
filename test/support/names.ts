/** Fixed names of the test run. Roles belong to the whole database server, so their passwords are the same for all tests. */
export const PASSWORDS = { worker: 'worker-of-tests', serve: 'serve-of-tests', examples: 'examples-of-tests' };

/** A migrated, empty database that tests copy. */
export const TEMPLATE = 'holdpoint_template';
