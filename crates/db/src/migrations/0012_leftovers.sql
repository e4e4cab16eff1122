-- Guests that a host said it has and that are not its own: found by complete lists of guests, shown by audits.
CREATE TABLE host_leftovers (
    host VARCHAR(255) NOT NULL,
    instance_uuid VARCHAR(36) NOT NULL,
    power_state BIGINT NOT NULL,
    seen_at BIGINT NOT NULL,
    PRIMARY KEY (host, instance_uuid)
);
