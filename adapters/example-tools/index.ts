/** The example tools. They are real: mail by SMTP when one is configured, a PostgreSQL table, a guarded HTTP GET. */
import nodemailer from 'nodemailer';
import pg from 'pg';
import { z } from 'zod';
import { defineTool } from '../../activities/define.ts';
import { hasEffect, recordEffect, requireEffectsFile } from './effects.ts';
import { guardedGet } from './http-get.ts';

const shortText = z.string().min(1).max(500);

/** Not idempotent: no mail server promises to send a message once because it has the same key. */
export const emailSend = defineTool({
  name: 'email.send',
  kind: 'write',
  input: z.strictObject({ to: z.email(), subject: shortText, body: z.string().max(100_000) }),
  preview: ({ to, subject }) => `Send mail to ${to}: ${subject}`,
  async execute(args, context) {
    const smtp = process.env.SMTP_URL;
    if (!smtp) requireEffectsFile('email.send');
    const delivered = smtp ? await sendMail(smtp, args) : undefined;
    await recordEffect('email.send', args, context);
    return delivered ? { sent: true, message_id: delivered.messageId } : { sent: false, note: 'no SMTP_URL is set: the mail is a line in effects.jsonl' };
  },
});

export const ticketCloseBulk = defineTool({
  name: 'ticket.close_bulk',
  kind: 'write',
  idempotent: true,
  input: z.strictObject({ ticket_ids: z.array(shortText).min(1).max(10_000), comment: z.string().max(4_000).default('') }),
  preview: ({ ticket_ids: ids }) => `Close ${ids.length} ticket${ids.length === 1 ? '' : 's'}: ${ids.slice(0, 5).join(', ')}${ids.length > 5 ? ', …' : ''}`,
  async execute(args, context) {
    requireEffectsFile('ticket.close_bulk');
    if (!(await hasEffect(context))) await recordEffect('ticket.close_bulk', args, context);
    return { closed: args.ticket_ids.length };
  },
});

/** A new version of a record in `examples.records`. A second attempt finds its own row by the key and adds none. */
export const dbWrite = defineTool({
  name: 'db.write',
  kind: 'write',
  idempotent: true,
  input: z.strictObject({ key: shortText, value: z.json() }),
  preview: ({ key }) => `Write record ${key}`,
  async execute(args, context) {
    const sql = 'INSERT INTO examples.records (idempotency_key, key, value, written_by_call) VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING';
    await withExamples((client) => client.query(sql, [context.idempotency_key, args.key, JSON.stringify(args.value), context.call_id]));
    if (!(await hasEffect(context))) await recordEffect('db.write', args, context);
    return { written: args.key };
  },
});

/** Outside the scope that the shipped policy allows: shows what a denial looks like. */
export const crmDelete = defineTool({
  name: 'crm.delete_contact',
  kind: 'write',
  idempotent: true,
  input: z.strictObject({ contact_id: shortText }),
  preview: ({ contact_id: id }) => `Delete contact ${id}`,
  async execute(args, context) {
    requireEffectsFile('crm.delete_contact');
    if (!(await hasEffect(context))) await recordEffect('crm.delete_contact', args, context);
    return { deleted: args.contact_id };
  },
});

export const searchRead = defineTool({
  name: 'search.read',
  kind: 'read',
  input: z.strictObject({ query: shortText, limit: z.int().min(1).max(50).default(10) }),
  async execute({ query, limit }) {
    const sql = `SELECT key, value FROM (SELECT DISTINCT ON (key) key, value FROM examples.records ORDER BY key, written_at DESC) newest
      WHERE position(lower($1) in lower(key || ' ' || value::text)) > 0 ORDER BY key LIMIT $2`;
    const found = await withExamples((client) => client.query<{ key: string; value: unknown }>(sql, [query, limit]));
    return { records: found.rows };
  },
});

export const httpGet = defineTool({
  name: 'http.get',
  kind: 'read',
  input: z.strictObject({ url: z.url().max(2_000) }),
  timeout_seconds: 30,
  execute: ({ url }, context) => guardedGet(url, context.signal),
});

function sendMail(smtp: string, { to, subject, body }: { to: string; subject: string; body: string }): Promise<{ messageId: string }> {
  return nodemailer.createTransport(smtp).sendMail({ from: process.env.SMTP_FROM ?? 'holdpoint@localhost', to, subject, text: body });
}

async function withExamples<T>(work: (client: pg.Client) => Promise<T>): Promise<T> {
  const connectionString = process.env.HOLDPOINT_EXAMPLE_DATABASE_URL;
  if (!connectionString) throw new Error('HOLDPOINT_EXAMPLE_DATABASE_URL is not set: the example tools that use a table need it');
  const client = new pg.Client({ connectionString, application_name: 'holdpoint-examples', connectionTimeoutMillis: 10_000 });
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}
