-- One text for SQLite and PostgreSQL: times are RFC 3339 texts of one length, which sort as they are.
CREATE TABLE endpoint (
    id TEXT PRIMARY KEY,
    owner_id TEXT NOT NULL,
    url TEXT NOT NULL,
    description TEXT,
    -- A JSON array of topics.
    topics TEXT NOT NULL,
    -- 'own' or 'all'.
    scope TEXT NOT NULL,
    active BOOLEAN NOT NULL,
    -- Why the plugin disabled it. Null while it is active, and if its owner disabled it.
    disabled_reason TEXT,
    secret TEXT NOT NULL,
    -- Signs too until this time.
    previous_secret TEXT,
    previous_secret_until TEXT,
    -- The failed attempts since the last successful one, and the time before which none is made.
    failures BIGINT NOT NULL,
    failing_since TEXT,
    resting_until TEXT,
    created_at TEXT NOT NULL
);

CREATE INDEX endpoint_owner ON endpoint (owner_id, created_at, id);
CREATE INDEX endpoint_of_all ON endpoint (id) WHERE scope = 'all';

-- An event that was sent to somebody. Its id is that of the event.
CREATE TABLE message (
    id TEXT PRIMARY KEY,
    topic TEXT NOT NULL,
    -- The account that the event concerns, if its publisher named one.
    audience TEXT,
    body TEXT NOT NULL,
    created_at TEXT NOT NULL
);

CREATE INDEX message_age ON message (created_at);

CREATE TABLE delivery (
    id TEXT PRIMARY KEY,
    message_id TEXT NOT NULL REFERENCES message (id) ON DELETE CASCADE,
    endpoint_id TEXT NOT NULL REFERENCES endpoint (id) ON DELETE CASCADE,
    -- 'waiting', 'delivered' or 'failed'.
    state TEXT NOT NULL,
    attempts BIGINT NOT NULL,
    -- Of the latest attempt.
    response_status BIGINT,
    error TEXT,
    attempted_at TEXT,
    created_at TEXT NOT NULL,
    CONSTRAINT delivery_once UNIQUE (message_id, endpoint_id)
);

CREATE INDEX delivery_log ON delivery (endpoint_id, created_at DESC, id);
CREATE INDEX delivery_waiting ON delivery (endpoint_id) WHERE state = 'waiting';
