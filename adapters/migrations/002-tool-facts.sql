-- Conditions may look at whether a tool is idempotent. The decision service knows no tools: it reads what was shown.
ALTER TABLE approval_requests ADD COLUMN idempotent boolean NOT NULL DEFAULT false;
