-- What policy looks at of a tool. The decision service knows no tools: it reads what was shown.
ALTER TABLE approval_requests ADD COLUMN idempotent boolean NOT NULL DEFAULT false, ADD COLUMN tool_tier text;
