-- `sealed` is the payload, encrypted with a key that is not in the database. A deleted secret leaves nothing here.
CREATE TABLE key_secrets (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    project_id VARCHAR(255) NOT NULL,
    creator_id VARCHAR(255) NOT NULL,
    name VARCHAR(255),
    kind VARCHAR(80) NOT NULL,
    expires_at BIGINT,
    algorithm VARCHAR(255),
    bit_length BIGINT,
    algorithm_mode VARCHAR(255),
    content_type VARCHAR(80),
    sealed TEXT,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE INDEX key_secrets_project ON key_secrets (project_id, created_at);
CREATE INDEX key_secrets_expires ON key_secrets (expires_at);
CREATE INDEX key_secrets_created ON key_secrets (created_at);
CREATE TABLE key_acls (
    secret_id VARCHAR(36) NOT NULL PRIMARY KEY,
    project_access BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE key_acl_users (
    secret_id VARCHAR(36) NOT NULL,
    user_id VARCHAR(255) NOT NULL,
    PRIMARY KEY (secret_id, user_id)
);
CREATE INDEX key_acl_users_user ON key_acl_users (user_id);
CREATE TABLE key_consumers (
    id AUTO_ID,
    secret_id VARCHAR(36) NOT NULL,
    service VARCHAR(255) NOT NULL,
    resource_type VARCHAR(255) NOT NULL,
    resource_id VARCHAR(255) NOT NULL,
    project_id VARCHAR(255) NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX key_consumers_secret ON key_consumers (secret_id);
CREATE TABLE key_metadata (
    secret_id VARCHAR(36) NOT NULL,
    name VARCHAR(255) NOT NULL,
    content VARCHAR(255) NOT NULL,
    PRIMARY KEY (secret_id, name)
);
