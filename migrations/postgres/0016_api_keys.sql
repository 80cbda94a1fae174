-- API keys: credentials of machines. Kept in step with the file of the same name for SQLite.

CREATE TABLE api_keys (
    id           uuid   NOT NULL PRIMARY KEY,
    -- The account that owns it. NULL means that it belongs to nobody.
    user_id      uuid   REFERENCES users (id) ON DELETE CASCADE,
    -- The account that created it. It may have been deleted since.
    created_by   uuid   NOT NULL,
    name         text   NOT NULL,
    -- SHA-256 of the secret part, which is 256 random bits: a slow hash would add nothing.
    secret_hash  bytea  NOT NULL,
    -- A JSON list of permissions.
    permissions  text   NOT NULL,
    -- Whether the session that created it had a second factor: 'single' or 'multi'.
    strength     text   NOT NULL,
    created_at   bigint NOT NULL,
    -- NULL means never.
    expires_at   bigint,
    last_used_at bigint
);

-- The orders of lists.
CREATE INDEX api_keys_newest ON api_keys (created_at DESC, id);
CREATE INDEX api_keys_user ON api_keys (user_id, created_at DESC, id);
