-- Who there is, what they may do, and where services answer. Empty text stands for "no domain" where a
-- unique index must see it, since NULLs are never equal.
CREATE TABLE identity_state (name VARCHAR(64) NOT NULL PRIMARY KEY, number BIGINT NOT NULL);
CREATE TABLE identity_domains (
  id VARCHAR(64) NOT NULL PRIMARY KEY, name VARCHAR(255) NOT NULL, description TEXT, enabled BIGINT NOT NULL,
  extra TEXT NOT NULL);
CREATE UNIQUE INDEX identity_domains_name ON identity_domains (name);
CREATE TABLE identity_projects (
  id VARCHAR(64) NOT NULL PRIMARY KEY, domain_id VARCHAR(64) NOT NULL, name VARCHAR(255) NOT NULL,
  parent_id VARCHAR(64) NOT NULL, description TEXT, enabled BIGINT NOT NULL, extra TEXT NOT NULL);
CREATE UNIQUE INDEX identity_projects_name ON identity_projects (domain_id, name);
CREATE INDEX identity_projects_parent ON identity_projects (parent_id);
CREATE TABLE identity_project_tags (
  project_id VARCHAR(64) NOT NULL, name VARCHAR(255) NOT NULL, PRIMARY KEY (project_id, name));
CREATE TABLE identity_users (
  id VARCHAR(64) NOT NULL PRIMARY KEY, domain_id VARCHAR(64) NOT NULL, name VARCHAR(255) NOT NULL,
  default_project_id VARCHAR(64), description TEXT, enabled BIGINT NOT NULL, extra TEXT NOT NULL,
  password_hash VARCHAR(255), tokens_from BIGINT NOT NULL DEFAULT 0);
CREATE UNIQUE INDEX identity_users_name ON identity_users (domain_id, name);
CREATE TABLE identity_groups (
  id VARCHAR(64) NOT NULL PRIMARY KEY, domain_id VARCHAR(64) NOT NULL, name VARCHAR(255) NOT NULL,
  description TEXT, extra TEXT NOT NULL);
CREATE UNIQUE INDEX identity_groups_name ON identity_groups (domain_id, name);
CREATE TABLE identity_memberships (
  group_id VARCHAR(64) NOT NULL, user_id VARCHAR(64) NOT NULL, PRIMARY KEY (group_id, user_id));
CREATE INDEX identity_memberships_user ON identity_memberships (user_id);
CREATE TABLE identity_roles (
  id VARCHAR(64) NOT NULL PRIMARY KEY, domain_id VARCHAR(64) NOT NULL, name VARCHAR(255) NOT NULL,
  description TEXT, extra TEXT NOT NULL);
CREATE UNIQUE INDEX identity_roles_name ON identity_roles (domain_id, name);
CREATE TABLE identity_implied_roles (
  prior_role_id VARCHAR(64) NOT NULL, implied_role_id VARCHAR(64) NOT NULL,
  PRIMARY KEY (prior_role_id, implied_role_id));
-- actor_kind: user or group; scope_kind: project, domain or system (then scope_id is 'system').
CREATE TABLE identity_assignments (
  actor_kind VARCHAR(8) NOT NULL, actor_id VARCHAR(64) NOT NULL, scope_kind VARCHAR(8) NOT NULL,
  scope_id VARCHAR(64) NOT NULL, role_id VARCHAR(64) NOT NULL, inherited BIGINT NOT NULL,
  PRIMARY KEY (actor_kind, actor_id, scope_kind, scope_id, role_id, inherited));
CREATE INDEX identity_assignments_scope ON identity_assignments (scope_kind, scope_id);
CREATE TABLE identity_regions (
  id VARCHAR(255) NOT NULL PRIMARY KEY, parent_region_id VARCHAR(255), description TEXT, extra TEXT NOT NULL);
CREATE TABLE identity_services (
  id VARCHAR(64) NOT NULL PRIMARY KEY, kind VARCHAR(255) NOT NULL, name VARCHAR(255), description TEXT,
  enabled BIGINT NOT NULL, extra TEXT NOT NULL);
CREATE TABLE identity_endpoints (
  id VARCHAR(64) NOT NULL PRIMARY KEY, service_id VARCHAR(64) NOT NULL, region_id VARCHAR(255),
  interface VARCHAR(8) NOT NULL, url TEXT NOT NULL, enabled BIGINT NOT NULL, extra TEXT NOT NULL);
CREATE INDEX identity_endpoints_service ON identity_endpoints (service_id);
-- content is sealed with the credential key.
CREATE TABLE identity_credentials (
  id VARCHAR(64) NOT NULL PRIMARY KEY, user_id VARCHAR(64) NOT NULL, project_id VARCHAR(64),
  kind VARCHAR(255) NOT NULL, content TEXT NOT NULL);
CREATE INDEX identity_credentials_user ON identity_credentials (user_id);
CREATE TABLE identity_app_credentials (
  id VARCHAR(64) NOT NULL PRIMARY KEY, user_id VARCHAR(64) NOT NULL, project_id VARCHAR(64) NOT NULL,
  name VARCHAR(255) NOT NULL, description TEXT, secret_hash VARCHAR(255) NOT NULL, expires_at BIGINT,
  unrestricted BIGINT NOT NULL);
CREATE UNIQUE INDEX identity_app_credentials_name ON identity_app_credentials (user_id, name);
CREATE TABLE identity_app_credential_roles (
  app_credential_id VARCHAR(64) NOT NULL, role_id VARCHAR(64) NOT NULL, PRIMARY KEY (app_credential_id, role_id));
CREATE TABLE identity_revoked_tokens (audit_id VARCHAR(64) NOT NULL PRIMARY KEY, expires_at BIGINT NOT NULL);
