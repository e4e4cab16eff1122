-- Trunks: one port carries the traffic of others, each under a VLAN of its own (extension `trunk`).
CREATE TABLE net_trunks (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, port_id VARCHAR(36) NOT NULL, body TEXT NOT NULL);
CREATE INDEX net_trunks_project ON net_trunks (project_id);
CREATE UNIQUE INDEX net_trunks_port ON net_trunks (port_id);
CREATE TABLE net_subports (port_id VARCHAR(36) NOT NULL PRIMARY KEY, trunk_id VARCHAR(36) NOT NULL, vlan BIGINT NOT NULL);
CREATE UNIQUE INDEX net_subports_vlan ON net_subports (trunk_id, vlan);
-- The networks that were made for projects that asked for any (extension `auto-allocated-topology`).
CREATE TABLE net_topologies (project_id VARCHAR(255) NOT NULL PRIMARY KEY, network_id VARCHAR(36) NOT NULL, router_id VARCHAR(36) NOT NULL);
CREATE INDEX net_topologies_network ON net_topologies (network_id);
