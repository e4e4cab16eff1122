-- Moves of servers between hosts and flavors: one row for each resize, cold or live migration, and evacuation.
CREATE TABLE migrations (
    id AUTO_ID,
    uuid VARCHAR(36) NOT NULL,
    instance_uuid VARCHAR(36) NOT NULL,
    migration_type VARCHAR(32) NOT NULL,
    status VARCHAR(32) NOT NULL,
    source_compute VARCHAR(255),
    source_node VARCHAR(255),
    dest_compute VARCHAR(255),
    dest_node VARCHAR(255),
    dest_host VARCHAR(255),
    old_flavor BIGINT,
    new_flavor BIGINT,
    project_id VARCHAR(64) NOT NULL,
    user_id VARCHAR(64) NOT NULL,
    memory_total BIGINT,
    memory_processed BIGINT,
    memory_remaining BIGINT,
    disk_total BIGINT,
    disk_processed BIGINT,
    disk_remaining BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX migrations_uuid ON migrations (uuid);
CREATE INDEX migrations_instance ON migrations (instance_uuid, status);
CREATE INDEX migrations_newest ON migrations (created_at, id);
CREATE INDEX migrations_owner ON migrations (project_id, created_at);
CREATE INDEX migrations_status ON migrations (status, migration_type);
