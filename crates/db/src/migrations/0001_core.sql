-- Servers. Times are microseconds since 1970 UTC; documents are JSON in TEXT.
CREATE TABLE instances (
    id AUTO_ID,
    uuid VARCHAR(36) NOT NULL,
    project_id VARCHAR(64) NOT NULL,
    user_id VARCHAR(64) NOT NULL,
    display_name VARCHAR(255) NOT NULL,
    display_description VARCHAR(255),
    hostname VARCHAR(255) NOT NULL,
    vm_state VARCHAR(32) NOT NULL,
    task_state VARCHAR(40),
    power_state BIGINT NOT NULL,
    generation BIGINT NOT NULL,
    task_id VARCHAR(36),
    host VARCHAR(255),
    node VARCHAR(255),
    node_id VARCHAR(36),
    availability_zone VARCHAR(255),
    pinned_zone VARCHAR(255),
    launched_on VARCHAR(255),
    flavor_id VARCHAR(255) NOT NULL,
    flavor TEXT NOT NULL,
    vcpus BIGINT NOT NULL,
    memory_mb BIGINT NOT NULL,
    image_id VARCHAR(36),
    image TEXT,
    key_name VARCHAR(255),
    key_data TEXT,
    user_data TEXT,
    config_drive BIGINT NOT NULL,
    access_ip_v4 VARCHAR(39),
    access_ip_v6 VARCHAR(39),
    metadata TEXT NOT NULL,
    networks TEXT NOT NULL,
    network_info TEXT NOT NULL,
    security_groups TEXT NOT NULL,
    scheduler_hints TEXT NOT NULL,
    admin_pass TEXT,
    locked BIGINT NOT NULL,
    locked_by VARCHAR(16),
    locked_reason VARCHAR(255),
    reservation_id VARCHAR(32) NOT NULL,
    launch_index BIGINT NOT NULL,
    root_device_name VARCHAR(64),
    progress BIGINT NOT NULL,
    fault_code BIGINT,
    fault_message VARCHAR(255),
    fault_details TEXT,
    fault_at BIGINT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT,
    launched_at BIGINT,
    terminated_at BIGINT,
    deleted BIGINT NOT NULL
);
CREATE UNIQUE INDEX instances_uuid ON instances (uuid);
CREATE INDEX instances_project ON instances (project_id, deleted, created_at, id);
CREATE INDEX instances_newest ON instances (deleted, created_at, id);
CREATE INDEX instances_host ON instances (host, deleted);

CREATE TABLE instance_tags (
    instance_uuid VARCHAR(36) NOT NULL,
    tag VARCHAR(80) NOT NULL,
    PRIMARY KEY (instance_uuid, tag)
);
CREATE INDEX instance_tags_tag ON instance_tags (tag, instance_uuid);

-- What Nova shows of long work: written in the same transactions as the journal.
CREATE TABLE instance_actions (
    id AUTO_ID,
    action VARCHAR(64) NOT NULL,
    instance_uuid VARCHAR(36) NOT NULL,
    request_id VARCHAR(64) NOT NULL,
    user_id VARCHAR(64) NOT NULL,
    project_id VARCHAR(64) NOT NULL,
    message VARCHAR(255),
    start_time BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX instance_actions_instance ON instance_actions (instance_uuid, id);

CREATE TABLE instance_action_events (
    id AUTO_ID,
    action_id BIGINT NOT NULL,
    event VARCHAR(255) NOT NULL,
    start_time BIGINT NOT NULL,
    finish_time BIGINT,
    outcome VARCHAR(32),
    traceback TEXT,
    host VARCHAR(255),
    details VARCHAR(255)
);
CREATE INDEX instance_action_events_action ON instance_action_events (action_id, id);

-- The journal: one row per run of a flow.
CREATE TABLE tasks (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    flow VARCHAR(64) NOT NULL,
    instance_uuid VARCHAR(36) NOT NULL,
    request_id VARCHAR(64) NOT NULL,
    action_id BIGINT,
    event_id BIGINT,
    state TEXT NOT NULL,
    phase VARCHAR(16) NOT NULL,
    step VARCHAR(64),
    epoch BIGINT NOT NULL,
    owner VARCHAR(64),
    incarnation BIGINT NOT NULL,
    failure TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX tasks_phase ON tasks (phase, created_at);
CREATE INDEX tasks_instance ON tasks (instance_uuid);

-- Processes that run flows; `beats` grows while one lives, `incarnation` with each start under the same name.
CREATE TABLE workers (
    name VARCHAR(64) NOT NULL PRIMARY KEY,
    incarnation BIGINT NOT NULL,
    beats BIGINT NOT NULL
);

-- Work that hosts pull.
CREATE TABLE host_work (
    task_id VARCHAR(36) NOT NULL,
    step VARCHAR(64) NOT NULL,
    direction VARCHAR(8) NOT NULL,
    epoch BIGINT NOT NULL,
    host VARCHAR(255) NOT NULL,
    instance_uuid VARCHAR(36) NOT NULL,
    request_id VARCHAR(64) NOT NULL,
    deadline_seconds BIGINT NOT NULL,
    verb TEXT NOT NULL,
    outcome TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (task_id, step, direction)
);
CREATE INDEX host_work_host ON host_work (host, created_at);

-- What a host still has to remove because it could not be reached in time; paid before new work.
CREATE TABLE host_debts (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    host VARCHAR(255) NOT NULL,
    instance_uuid VARCHAR(36) NOT NULL,
    reason VARCHAR(255) NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX host_debts_host ON host_debts (host);

CREATE TABLE services (
    id AUTO_ID,
    uuid VARCHAR(36) NOT NULL,
    host VARCHAR(255) NOT NULL,
    topic VARCHAR(64) NOT NULL,
    beats BIGINT NOT NULL,
    last_seen_up BIGINT,
    disabled BIGINT NOT NULL,
    disabled_reason VARCHAR(255),
    forced_down BIGINT NOT NULL,
    version BIGINT NOT NULL,
    problem VARCHAR(255),
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX services_uuid ON services (uuid);
CREATE UNIQUE INDEX services_host ON services (host, topic);

CREATE TABLE compute_nodes (
    id AUTO_ID,
    uuid VARCHAR(36) NOT NULL,
    host VARCHAR(255) NOT NULL,
    hypervisor_hostname VARCHAR(255) NOT NULL,
    facts TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX compute_nodes_uuid ON compute_nodes (uuid);
CREATE UNIQUE INDEX compute_nodes_host ON compute_nodes (host);

-- Placement's tables: `used` follows the allocations in the same transactions, `capacity` is
-- floor((total - reserved) * allocation_ratio).
CREATE TABLE resource_providers (
    uuid VARCHAR(36) NOT NULL PRIMARY KEY,
    name VARCHAR(200) NOT NULL,
    generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT
);
CREATE UNIQUE INDEX resource_providers_name ON resource_providers (name);

CREATE TABLE inventories (
    provider VARCHAR(36) NOT NULL,
    resource_class VARCHAR(255) NOT NULL,
    total BIGINT NOT NULL,
    reserved BIGINT NOT NULL,
    min_unit BIGINT NOT NULL,
    max_unit BIGINT NOT NULL,
    step_size BIGINT NOT NULL,
    allocation_ratio DOUBLE PRECISION NOT NULL,
    capacity BIGINT NOT NULL,
    used BIGINT NOT NULL,
    PRIMARY KEY (provider, resource_class)
);

CREATE TABLE consumers (
    uuid VARCHAR(36) NOT NULL PRIMARY KEY,
    project_id VARCHAR(255) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    consumer_type VARCHAR(64) NOT NULL,
    generation BIGINT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX consumers_project ON consumers (project_id, user_id);

CREATE TABLE allocations (
    consumer VARCHAR(36) NOT NULL,
    provider VARCHAR(36) NOT NULL,
    resource_class VARCHAR(255) NOT NULL,
    amount BIGINT NOT NULL,
    PRIMARY KEY (consumer, provider, resource_class)
);
CREATE INDEX allocations_provider ON allocations (provider);

-- What a project's user holds: changed in the transaction that creates or removes a server.
CREATE TABLE server_usages (
    project_id VARCHAR(64) NOT NULL,
    user_id VARCHAR(64) NOT NULL,
    instances BIGINT NOT NULL,
    cores BIGINT NOT NULL,
    ram_mb BIGINT NOT NULL,
    PRIMARY KEY (project_id, user_id)
);
