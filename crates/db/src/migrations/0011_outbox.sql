-- What happened to servers and services, written in the transaction of the change; read by event streams and by whoever
-- publishes notifications. Rows go after a time (`db::outbox::forget`).
CREATE TABLE outbox (
    id AUTO_ID,
    kind VARCHAR(16) NOT NULL,
    project_id VARCHAR(64) NOT NULL,
    subject VARCHAR(36) NOT NULL,
    vm_state VARCHAR(32),
    task_state VARCHAR(40),
    power_state BIGINT,
    host VARCHAR(255),
    action VARCHAR(255),
    event VARCHAR(255),
    outcome VARCHAR(32),
    request_id VARCHAR(64),
    user_id VARCHAR(64),
    created_at BIGINT NOT NULL
);
CREATE INDEX outbox_project ON outbox (project_id, id);
-- How far each reader has come, and which process reads for it now.
CREATE TABLE outbox_readers (
    name VARCHAR(64) NOT NULL PRIMARY KEY,
    position BIGINT NOT NULL,
    owner VARCHAR(64),
    until BIGINT NOT NULL
);
