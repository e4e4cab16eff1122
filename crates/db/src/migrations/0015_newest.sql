-- Pages of servers, newest first, of a host, of a state, of a project with what it has deleted; what has changed in a
-- project. However many servers there are, a page is read from an index in its order.
CREATE INDEX instances_host_newest ON instances (host, deleted, created_at, id);
CREATE INDEX instances_state_newest ON instances (vm_state, deleted, created_at, id);
CREATE INDEX instances_project_state ON instances (project_id, vm_state, deleted, created_at, id);
CREATE INDEX instances_project_newest ON instances (project_id, created_at, id);
CREATE INDEX instances_project_updated ON instances (project_id, updated_at);
