-- Short questions to hosts: asked in one process, handed to the host's agent by another.
CREATE TABLE host_questions (
    id VARCHAR(36) NOT NULL PRIMARY KEY,
    host VARCHAR(255) NOT NULL,
    instance_uuid VARCHAR(36) NOT NULL,
    question TEXT NOT NULL,
    answer TEXT,
    created_at BIGINT NOT NULL
);
CREATE INDEX host_questions_host ON host_questions (host);
