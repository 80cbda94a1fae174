-- Second factors: the keys of authenticator apps, recovery codes, and sign-ins that wait for a second factor.
-- Kept in step with the file of the same name for SQLite.

CREATE TABLE totp_factors (
    user_id        uuid   NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    -- The key that the host and the authenticator app share (RFC 6238). As secret as a signing key.
    secret         bytea  NOT NULL,
    created_at     bigint NOT NULL,
    -- NULL until a code has shown that the app has the key. Until then, the account does not have this factor.
    confirmed_at   bigint,
    -- The time step of the last accepted code. A code of this step or an earlier one is refused.
    last_step      bigint NOT NULL,
    -- The wrong codes since the last right one, and the time of the last attempt.
    failures       bigint NOT NULL,
    last_tried_at  bigint NOT NULL
);

CREATE TABLE recovery_codes (
    user_id   uuid  NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- SHA-256 of a code of 120 random bits.
    code_hash bytea NOT NULL,
    PRIMARY KEY (user_id, code_hash)
);

CREATE TABLE login_challenges (
    -- SHA-256 of the challenge.
    challenge_hash  bytea  NOT NULL PRIMARY KEY,
    user_id         uuid   NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- SHA-256 of the account's password hash at the time of the first factor.
    password_digest bytea  NOT NULL,
    attempts        bigint NOT NULL,
    expires_at      bigint NOT NULL
);

CREATE INDEX login_challenges_user ON login_challenges (user_id);
CREATE INDEX login_challenges_expiry ON login_challenges (expires_at);

-- The wrong codes of a session since its last right one, and the time of its last attempt. They are not those of the
-- account, or else the thief of a session could keep its owner from signing in.
ALTER TABLE sessions ADD COLUMN code_failures bigint NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN code_tried_at bigint NOT NULL DEFAULT 0;
