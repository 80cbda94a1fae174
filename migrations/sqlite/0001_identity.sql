-- Identity: accounts, their sessions, links to set a password, and the keys that sign access tokens.
-- Identifiers are hyphenated lower-case UUIDs, moments are microseconds since 1970 (UTC). Kept in step with the file of the
-- same name for PostgreSQL.

CREATE TABLE users (
    id            TEXT    NOT NULL PRIMARY KEY,
    -- As given, domain lower-cased.
    email         TEXT    NOT NULL,
    -- What identifies the account: the lower-cased whole.
    email_key     TEXT    NOT NULL UNIQUE,
    full_name     TEXT,
    is_active     INTEGER NOT NULL CHECK (is_active IN (0, 1)),
    is_superuser  INTEGER NOT NULL CHECK (is_superuser IN (0, 1)),
    -- PHC string (Argon2id), or a bcrypt hash brought along until its owner signs in.
    password_hash TEXT    NOT NULL,
    created_at    INTEGER NOT NULL
) STRICT;

-- The order of lists.
CREATE INDEX users_newest ON users (created_at DESC, id);
-- Counted whenever one of them would go.
CREATE INDEX users_superusers ON users (id) WHERE is_superuser = 1;

CREATE TABLE sessions (
    id             TEXT    NOT NULL PRIMARY KEY,
    user_id        TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- SHA-256 of the part that all refresh tokens of this session share: any of them, however old, finds the session.
    family_hash    BLOB    NOT NULL UNIQUE,
    -- SHA-256 of the part that changes with every refresh: of the token in use, and of the one before it.
    secret_hash    BLOB    NOT NULL,
    previous_hash  BLOB,
    -- Random; with the token before it, it yields the token in use, so that concurrent refreshes get the same answer.
    rotation_nonce BLOB,
    rotated_at     INTEGER,
    created_at     INTEGER NOT NULL,
    last_used_at   INTEGER NOT NULL,
    expires_at     INTEGER NOT NULL,
    user_agent     TEXT
) STRICT;

CREATE INDEX sessions_user ON sessions (user_id);
CREATE INDEX sessions_expiry ON sessions (expires_at);

CREATE TABLE reset_tokens (
    -- SHA-256 of the token.
    token_hash BLOB    NOT NULL PRIMARY KEY,
    user_id    TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX reset_tokens_user ON reset_tokens (user_id);
CREATE INDEX reset_tokens_expiry ON reset_tokens (expires_at);

CREATE TABLE signing_keys (
    -- Counts up; the highest one signs, all of them verify. Nodes that start at once agree on the first through it.
    generation  INTEGER NOT NULL PRIMARY KEY,
    kid         TEXT    NOT NULL UNIQUE,
    -- Ed25519, PKCS #8 DER.
    private_key BLOB    NOT NULL,
    created_at  INTEGER NOT NULL
) STRICT;
