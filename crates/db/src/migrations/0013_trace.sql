-- The trace that a task belongs to (types::Trace, JSON), when it came from outside.
ALTER TABLE tasks ADD COLUMN trace TEXT;
