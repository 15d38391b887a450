-- Two functions that do in one round trip what took several. Volatile, so that each statement in them has a snapshot of its
-- own: what is read after a lock is what was true after it.

-- Locks a run's head, makes it when the run is new, and reads the one clock after the lock.
CREATE FUNCTION lock_run(p_run_id text, p_genesis text, OUT seq bigint, OUT hash text, OUT at timestamptz) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  SELECT h.seq, h.hash INTO seq, hash FROM run_heads h WHERE h.run_id = p_run_id FOR UPDATE;
  IF NOT FOUND THEN
    INSERT INTO run_heads (run_id, hash) VALUES (p_run_id, p_genesis) ON CONFLICT DO NOTHING;
    SELECT h.seq, h.hash INTO seq, hash FROM run_heads h WHERE h.run_id = p_run_id FOR UPDATE;
  END IF;
  at := date_trunc('milliseconds', clock_timestamp());
END $$;

-- Shares the kill switch's lock until the transaction ends and answers the first switch that is engaged, if any.
CREATE FUNCTION engaged_control(p_scopes text[], OUT scope text, OUT reason text, OUT at timestamptz) LANGUAGE plpgsql VOLATILE AS $$
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtext('holdpoint-controls'));
  SELECT c.scope, c.reason INTO scope, reason FROM controls c WHERE c.engaged AND c.scope = ANY (p_scopes) ORDER BY c.scope LIMIT 1;
  at := date_trunc('milliseconds', clock_timestamp());
END $$;
