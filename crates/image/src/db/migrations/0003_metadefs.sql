-- Definitions of metadata (Image API v2, "Metadata definitions"); an item is an object, a property, a tag or a resource type.
CREATE TABLE metadef_namespaces (
    name VARCHAR(80) NOT NULL PRIMARY KEY,
    owner VARCHAR(255) NOT NULL,
    visibility VARCHAR(16) NOT NULL,
    protected BIGINT NOT NULL,
    display_name VARCHAR(80),
    description VARCHAR(500),
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL
);
CREATE TABLE metadef_items (
    namespace VARCHAR(80) NOT NULL,
    kind VARCHAR(16) NOT NULL,
    name VARCHAR(80) NOT NULL,
    body TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (namespace, kind, name)
);
CREATE INDEX metadef_items_kind ON metadef_items (kind, name);
