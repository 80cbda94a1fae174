-- Accounts at OpenID Connect issuers that belong to accounts of this host.
CREATE TABLE identities (
    id           TEXT    NOT NULL PRIMARY KEY,
    user_id      TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- The URL of the issuer. Its name in the configuration could be given to another issuer later.
    issuer       TEXT    NOT NULL,
    -- The name of the account at the issuer, which never changes.
    subject      TEXT    NOT NULL,
    -- The address that the issuer verified, and its key; null if it verified none.
    email        TEXT,
    email_key    TEXT,
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    UNIQUE (issuer, subject)
) STRICT;

CREATE INDEX identities_user ON identities (user_id);

-- Codes that a frontend exchanges for tokens after an issuer vouched for an account.
CREATE TABLE login_codes (
    -- SHA-256 of the code.
    code_hash  BLOB    NOT NULL PRIMARY KEY,
    user_id    TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- The challenge of the frontend (PKCE, S256).
    challenge  TEXT    NOT NULL,
    expires_at INTEGER NOT NULL
) STRICT;

CREATE INDEX login_codes_user ON login_codes (user_id);
CREATE INDEX login_codes_expiry ON login_codes (expires_at);

-- Links that signed-in users began: one for each user.
CREATE TABLE pending_links (
    user_id      TEXT    NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    -- The session that began it. It must still exist at the end.
    session_id   TEXT    NOT NULL,
    -- SHA-256 of the secret in the browser's cookie.
    browser_hash BLOB    NOT NULL UNIQUE,
    issuer       TEXT    NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT;
