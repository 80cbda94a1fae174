-- Passkeys: public keys that authenticators of users hold the private keys of, and requests for them that wait.

CREATE TABLE passkeys (
    id            TEXT    NOT NULL PRIMARY KEY,
    user_id       TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- The authenticator chose it.
    credential_id BLOB    NOT NULL UNIQUE,
    name          TEXT    NOT NULL,
    -- The public key, and the state that changes with each use, such as the counter; both in the form of the library.
    static_state  BLOB    NOT NULL,
    dynamic_state BLOB    NOT NULL,
    created_at    INTEGER NOT NULL,
    last_used_at  INTEGER
) STRICT;

CREATE INDEX passkeys_user ON passkeys (user_id);

CREATE TABLE passkey_requests (
    -- SHA-256 of the challenge that the authenticator signs.
    challenge_hash BLOB    NOT NULL PRIMARY KEY,
    -- The account that adds a passkey; NULL if a passkey is to be used.
    user_id        TEXT    REFERENCES users (id) ON DELETE CASCADE,
    state          BLOB    NOT NULL,
    expires_at     INTEGER NOT NULL
) STRICT;

CREATE INDEX passkey_requests_expiry ON passkey_requests (expires_at);
CREATE INDEX passkey_requests_user ON passkey_requests (user_id);
