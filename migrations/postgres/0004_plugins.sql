-- Plugins, their releases and the components they run; the audit log.
-- A plugin stays when it is removed (state 'removed'), so that its mount, its grants and its data can come back.
CREATE TABLE plugins (
    name TEXT PRIMARY KEY,
    mount TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('live', 'removed')),
    live_release BIGINT NOT NULL
);

-- Component files by the SHA-256 of their bytes, in hexadecimal.
CREATE TABLE artifacts (
    digest TEXT PRIMARY KEY,
    component BYTEA NOT NULL
);

-- Immutable. `declaration`, `grants` and `settings` are JSON.
CREATE TABLE releases (
    plugin TEXT NOT NULL REFERENCES plugins (name) ON DELETE CASCADE,
    number BIGINT NOT NULL,
    digest TEXT NOT NULL REFERENCES artifacts (digest),
    mount TEXT NOT NULL,
    declaration TEXT NOT NULL,
    grants TEXT NOT NULL,
    settings TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    created_by UUID,
    PRIMARY KEY (plugin, number)
);

CREATE TABLE audit (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at BIGINT NOT NULL,
    actor UUID,
    plugin TEXT,
    action TEXT NOT NULL,
    object TEXT NOT NULL,
    outcome TEXT NOT NULL,
    detail TEXT NOT NULL,
    request_id TEXT
);
CREATE INDEX audit_at ON audit (at);
