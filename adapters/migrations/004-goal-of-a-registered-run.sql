-- What the owner said when the run was started, in a column of its own: an approver may go by it, and the copy in `run_states` is
-- the worker's word.
ALTER TABLE runs ADD COLUMN goal text;
