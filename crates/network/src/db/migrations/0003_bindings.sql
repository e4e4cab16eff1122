-- Hosts that make a port ready although it is active on another one; the active binding stands with the port.
CREATE TABLE net_bindings (port_id VARCHAR(36) NOT NULL, host VARCHAR(255) NOT NULL, vnic_type VARCHAR(64) NOT NULL, profile TEXT NOT NULL, PRIMARY KEY (port_id, host));
CREATE INDEX net_bindings_host ON net_bindings (host);
