-- Disks of servers, one row for each device of the request, image or flavor; rows go with the server or the detachment.
CREATE TABLE block_device_mappings (
    id AUTO_ID,
    uuid VARCHAR(36) NOT NULL,
    instance_uuid VARCHAR(36) NOT NULL,
    source_type VARCHAR(16) NOT NULL,
    destination_type VARCHAR(16) NOT NULL,
    device_name VARCHAR(255),
    boot_index BIGINT,
    image_id VARCHAR(36),
    volume_id VARCHAR(36),
    snapshot_id VARCHAR(36),
    volume_size BIGINT,
    delete_on_termination BIGINT NOT NULL,
    tag VARCHAR(255),
    disk_bus VARCHAR(255),
    device_type VARCHAR(255),
    guest_format VARCHAR(255),
    volume_type VARCHAR(255),
    attachment_id VARCHAR(36),
    connection_info TEXT,
    created_at BIGINT NOT NULL
);
CREATE UNIQUE INDEX block_device_mappings_uuid ON block_device_mappings (uuid);
CREATE INDEX block_device_mappings_instance ON block_device_mappings (instance_uuid, id);
CREATE INDEX block_device_mappings_volume ON block_device_mappings (volume_id);
