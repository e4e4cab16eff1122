-- What a task waits for, since when, and how often it has tried: for operators.
ALTER TABLE tasks ADD COLUMN waits TEXT;
