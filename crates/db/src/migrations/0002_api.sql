-- What the API offers to servers: flavors, key pairs, quotas, groups, aggregates.
CREATE TABLE flavors (
    id AUTO_ID,
    flavor_id VARCHAR(255) NOT NULL,
    name VARCHAR(255) NOT NULL,
    description TEXT,
    memory_mb BIGINT NOT NULL,
    vcpus BIGINT NOT NULL,
    root_gb BIGINT NOT NULL,
    ephemeral_gb BIGINT NOT NULL,
    swap_mb BIGINT NOT NULL,
    rxtx_factor DOUBLE PRECISION NOT NULL,
    is_public BIGINT NOT NULL,
    disabled BIGINT NOT NULL,
    extra_specs TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX flavors_flavor_id ON flavors (flavor_id);
CREATE UNIQUE INDEX flavors_name ON flavors (name);

CREATE TABLE flavor_access (
    flavor BIGINT NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    PRIMARY KEY (flavor, project_id)
);

CREATE TABLE key_pairs (
    id AUTO_ID,
    user_id VARCHAR(255) NOT NULL,
    name VARCHAR(255) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    fingerprint VARCHAR(255) NOT NULL,
    public_key TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX key_pairs_name ON key_pairs (user_id, name);

-- Limits of projects, of users within projects, and of quota classes; what has no row has the default.
CREATE TABLE quota_limits (
    project_id VARCHAR(255) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    resource VARCHAR(64) NOT NULL,
    hard_limit BIGINT NOT NULL,
    PRIMARY KEY (project_id, user_id, resource)
);

CREATE TABLE quota_classes (
    class_name VARCHAR(255) NOT NULL,
    resource VARCHAR(64) NOT NULL,
    hard_limit BIGINT NOT NULL,
    PRIMARY KEY (class_name, resource)
);

CREATE TABLE server_groups (
    id AUTO_ID,
    uuid VARCHAR(36) NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    name VARCHAR(255) NOT NULL,
    policy VARCHAR(64) NOT NULL,
    max_server_per_host BIGINT,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX server_groups_uuid ON server_groups (uuid);
CREATE INDEX server_groups_project ON server_groups (project_id, id);

CREATE TABLE server_group_members (
    group_uuid VARCHAR(36) NOT NULL,
    instance_uuid VARCHAR(36) NOT NULL,
    PRIMARY KEY (group_uuid, instance_uuid)
);
CREATE INDEX server_group_members_instance ON server_group_members (instance_uuid);

CREATE TABLE aggregates (
    id AUTO_ID,
    uuid VARCHAR(36) NOT NULL,
    name VARCHAR(255) NOT NULL,
    metadata TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX aggregates_name ON aggregates (name);

CREATE TABLE aggregate_hosts (
    aggregate BIGINT NOT NULL,
    host VARCHAR(255) NOT NULL,
    PRIMARY KEY (aggregate, host)
);
CREATE INDEX aggregate_hosts_host ON aggregate_hosts (host);
