-- Which process has a worker's name now: one whose restart was taken and whose answer was lost knows itself by that.
ALTER TABLE workers ADD COLUMN process VARCHAR(36);
