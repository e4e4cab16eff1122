-- Volumes that have grown while somebody worked on their servers: what has to be told when nobody does. Whoever begins that, or
-- finds the server gone, deletes the row.
CREATE TABLE grown_volumes (
    action_id BIGINT NOT NULL PRIMARY KEY,
    instance_uuid VARCHAR(36) NOT NULL,
    volume_id VARCHAR(255) NOT NULL,
    request_id VARCHAR(255) NOT NULL,
    trace TEXT
);
