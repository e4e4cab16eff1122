-- Usage is shown one project after the other, and in each by the servers' ids: a page of it is read in that order.
CREATE INDEX instances_project_uuid ON instances (project_id, uuid);
