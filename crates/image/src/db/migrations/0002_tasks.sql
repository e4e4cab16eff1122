-- What imports did; kept for a while after their end.
CREATE TABLE image_tasks (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    kind VARCHAR(32) NOT NULL,
    status VARCHAR(16) NOT NULL,
    owner VARCHAR(255) NOT NULL,
    user_id VARCHAR(64) NOT NULL,
    image_id VARCHAR(36) NOT NULL,
    request_id VARCHAR(64) NOT NULL,
    input TEXT NOT NULL,
    message TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    expires_at BIGINT
);
CREATE INDEX image_tasks_image ON image_tasks (image_id, created_at);
CREATE INDEX image_tasks_created ON image_tasks (created_at, id);
CREATE INDEX image_tasks_expires ON image_tasks (expires_at);
