-- What guests leave with the metadata service, and files for their config drives (sealed).
CREATE TABLE guest_passwords (
    instance_uuid VARCHAR(36) NOT NULL PRIMARY KEY,
    password TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

CREATE TABLE injected_files (
    instance_uuid VARCHAR(36) NOT NULL PRIMARY KEY,
    sealed TEXT NOT NULL
);

-- First answers to requests with an Idempotency-Key.
CREATE TABLE idempotency_keys (
    project_id VARCHAR(64) NOT NULL,
    user_id VARCHAR(64) NOT NULL,
    client_key VARCHAR(255) NOT NULL,
    request_hash VARCHAR(64) NOT NULL,
    status BIGINT NOT NULL,
    location VARCHAR(255),
    sealed TEXT,
    created_at BIGINT NOT NULL,
    PRIMARY KEY (project_id, user_id, client_key)
);
CREATE INDEX idempotency_keys_age ON idempotency_keys (created_at);
