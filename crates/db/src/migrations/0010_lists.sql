-- What lists and pollers ask for, and no index answered: what has changed since a time, servers of an image or a flavor,
-- what is at rest in a state.
CREATE INDEX instances_updated ON instances (updated_at);
CREATE INDEX instances_created ON instances (created_at);
CREATE INDEX instances_state ON instances (vm_state, deleted);
CREATE INDEX instances_image ON instances (image_id, deleted);
CREATE INDEX instances_reservation ON instances (reservation_id);
CREATE INDEX migrations_updated ON migrations (updated_at);
CREATE INDEX server_groups_user ON server_groups (user_id, project_id);
CREATE INDEX flavor_access_project ON flavor_access (project_id, flavor);
