-- Passkeys: public keys that authenticators of users hold the private keys of, and requests for them that wait.
-- Kept in step with the file of the same name for SQLite.

CREATE TABLE passkeys (
    id            uuid   NOT NULL PRIMARY KEY,
    user_id       uuid   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- The authenticator chose it.
    credential_id bytea  NOT NULL UNIQUE,
    name          text   NOT NULL,
    -- The public key, and the state that changes with each use, such as the counter; both in the form of the library.
    static_state  bytea  NOT NULL,
    dynamic_state bytea  NOT NULL,
    created_at    bigint NOT NULL,
    last_used_at  bigint
);

CREATE INDEX passkeys_user ON passkeys (user_id);

CREATE TABLE passkey_requests (
    -- SHA-256 of the challenge that the authenticator signs.
    challenge_hash bytea  NOT NULL PRIMARY KEY,
    -- The account that adds a passkey; NULL if a passkey is to be used.
    user_id        uuid   REFERENCES users (id) ON DELETE CASCADE,
    state          bytea  NOT NULL,
    expires_at     bigint NOT NULL
);

CREATE INDEX passkey_requests_expiry ON passkey_requests (expires_at);
CREATE INDEX passkey_requests_user ON passkey_requests (user_id);
