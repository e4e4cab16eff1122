-- Each API resource is a JSON document in `body`; the columns beside it are what is searched by or must be unique,
-- and are written from the document whenever it is saved.
CREATE TABLE net_networks (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, name VARCHAR(255) NOT NULL, shared BIGINT NOT NULL, external BIGINT NOT NULL, segment BIGINT, body TEXT NOT NULL);
CREATE INDEX net_networks_project ON net_networks (project_id);
CREATE UNIQUE INDEX net_networks_segment ON net_networks (segment);
CREATE TABLE net_subnets (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, network_id VARCHAR(36) NOT NULL, subnetpool_id VARCHAR(36), body TEXT NOT NULL);
CREATE INDEX net_subnets_project ON net_subnets (project_id);
CREATE INDEX net_subnets_network ON net_subnets (network_id);
CREATE INDEX net_subnets_pool ON net_subnets (subnetpool_id);
CREATE TABLE net_subnetpools (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, shared BIGINT NOT NULL, address_scope_id VARCHAR(36), body TEXT NOT NULL);
CREATE TABLE net_address_scopes (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, shared BIGINT NOT NULL, body TEXT NOT NULL);
CREATE TABLE net_ports (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, network_id VARCHAR(36) NOT NULL, device_id VARCHAR(255) NOT NULL, device_owner VARCHAR(255) NOT NULL, host VARCHAR(255) NOT NULL, mac_address VARCHAR(32) NOT NULL, status VARCHAR(16) NOT NULL, addresses TEXT NOT NULL, body TEXT NOT NULL);
CREATE INDEX net_ports_project ON net_ports (project_id);
CREATE UNIQUE INDEX net_ports_mac ON net_ports (network_id, mac_address);
CREATE INDEX net_ports_device ON net_ports (device_id);
CREATE INDEX net_ports_owner ON net_ports (device_owner);
CREATE INDEX net_ports_host ON net_ports (host);
CREATE TABLE net_routers (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, body TEXT NOT NULL);
CREATE INDEX net_routers_project ON net_routers (project_id);
CREATE TABLE net_floatingips (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, floating_network_id VARCHAR(36) NOT NULL, floating_ip_address VARCHAR(64) NOT NULL, port_id VARCHAR(36), router_id VARCHAR(36), association VARCHAR(160), body TEXT NOT NULL);
CREATE INDEX net_floatingips_project ON net_floatingips (project_id);
CREATE INDEX net_floatingips_port ON net_floatingips (port_id);
CREATE INDEX net_floatingips_router ON net_floatingips (router_id);
CREATE UNIQUE INDEX net_floatingips_association ON net_floatingips (association);
CREATE TABLE net_groups (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, name VARCHAR(255) NOT NULL, default_of VARCHAR(255), body TEXT NOT NULL);
CREATE INDEX net_groups_project ON net_groups (project_id);
CREATE UNIQUE INDEX net_groups_default ON net_groups (default_of);
CREATE TABLE net_rules (id VARCHAR(36) NOT NULL PRIMARY KEY, project_id VARCHAR(255) NOT NULL, security_group_id VARCHAR(36) NOT NULL, remote_group_id VARCHAR(36), content VARCHAR(255) NOT NULL, body TEXT NOT NULL);
CREATE INDEX net_rules_project ON net_rules (project_id);
CREATE INDEX net_rules_remote ON net_rules (remote_group_id);
CREATE UNIQUE INDEX net_rules_content ON net_rules (security_group_id, content);
-- Who holds which address; the primary key is what makes an address unique. `address` is hexadecimal: it sorts as the number does.
CREATE TABLE net_allocations (subnet_id VARCHAR(36) NOT NULL, address VARCHAR(32) NOT NULL, port_id VARCHAR(36) NOT NULL, PRIMARY KEY (subnet_id, address));
CREATE INDEX net_allocations_port ON net_allocations (port_id);
CREATE TABLE net_port_groups (port_id VARCHAR(36) NOT NULL, group_id VARCHAR(36) NOT NULL, PRIMARY KEY (port_id, group_id));
CREATE INDEX net_port_groups_group ON net_port_groups (group_id);
-- What changed for the agents, by the revision that changed it.
CREATE TABLE net_counters (name VARCHAR(32) NOT NULL PRIMARY KEY, amount BIGINT NOT NULL);
INSERT INTO net_counters (name, amount) VALUES ('revision', 1);
CREATE TABLE net_changes (revision BIGINT NOT NULL, kind VARCHAR(8) NOT NULL, object VARCHAR(36) NOT NULL, host VARCHAR(255) NOT NULL, PRIMARY KEY (revision, kind, object, host));
CREATE TABLE net_hosts (host VARCHAR(255) NOT NULL PRIMARY KEY, first_seen BIGINT NOT NULL);
CREATE TABLE net_agents (id VARCHAR(36) NOT NULL PRIMARY KEY, host VARCHAR(255) NOT NULL, kind VARCHAR(16) NOT NULL, created BIGINT NOT NULL, started BIGINT NOT NULL, heartbeat BIGINT NOT NULL, admin_state_up BIGINT NOT NULL, description VARCHAR(255) NOT NULL, configurations TEXT NOT NULL);
CREATE UNIQUE INDEX net_agents_host ON net_agents (host, kind);
CREATE TABLE net_quotas (project_id VARCHAR(255) NOT NULL, resource VARCHAR(64) NOT NULL, amount BIGINT NOT NULL, PRIMARY KEY (project_id, resource));
