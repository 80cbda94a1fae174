-- Identity: accounts, their sessions, links to set a password, and the keys that sign access tokens.
-- Moments are microseconds since 1970 (UTC). The schema is found through the search path. Kept in step with the file of
-- the same name for SQLite.

CREATE TABLE users (
    id            uuid    NOT NULL PRIMARY KEY,
    -- As given, domain lower-cased.
    email         text    NOT NULL,
    -- What identifies the account: the lower-cased whole.
    email_key     text    NOT NULL UNIQUE,
    full_name     text,
    is_active     boolean NOT NULL,
    is_superuser  boolean NOT NULL,
    -- PHC string (Argon2id), or a bcrypt hash brought along until its owner signs in.
    password_hash text    NOT NULL,
    created_at    bigint  NOT NULL
);

-- The order of lists.
CREATE INDEX users_newest ON users (created_at DESC, id);
-- Counted whenever one of them would go.
CREATE INDEX users_superusers ON users (id) WHERE is_superuser;

CREATE TABLE sessions (
    id             uuid   NOT NULL PRIMARY KEY,
    user_id        uuid   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- SHA-256 of the part that all refresh tokens of this session share: any of them, however old, finds the session.
    family_hash    bytea  NOT NULL UNIQUE,
    -- SHA-256 of the part that changes with every refresh: of the token in use, and of the one before it.
    secret_hash    bytea  NOT NULL,
    previous_hash  bytea,
    -- Random; with the token before it, it yields the token in use, so that concurrent refreshes get the same answer.
    rotation_nonce bytea,
    rotated_at     bigint,
    created_at     bigint NOT NULL,
    last_used_at   bigint NOT NULL,
    expires_at     bigint NOT NULL,
    user_agent     text
);

CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE reset_tokens (
    -- SHA-256 of the token.
    token_hash bytea  NOT NULL PRIMARY KEY,
    user_id    uuid   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at bigint NOT NULL
);

CREATE INDEX reset_tokens_user ON reset_tokens (user_id);
CREATE INDEX reset_tokens_expiry ON reset_tokens (expires_at);

CREATE TABLE signing_keys (
    -- Counts up; the highest one signs, all of them verify. Nodes that start at once agree on the first through it.
    generation  bigint NOT NULL PRIMARY KEY,
    kid         text   NOT NULL UNIQUE,
    -- Ed25519, PKCS #8 DER.
    private_key bytea  NOT NULL,
    created_at  bigint NOT NULL
);
