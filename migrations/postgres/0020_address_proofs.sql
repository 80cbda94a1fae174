-- Proofs that the owner of an account reads the mail of its address, invitations, and the bounds of the mail queue.

-- When the owner proved that they read the mail of the address, or an operator vouched for it. The accounts of earlier
-- versions count as proven, because their owners use them.
ALTER TABLE users ADD COLUMN email_verified_at bigint;
UPDATE users SET email_verified_at = created_at;
-- When the owner was invited. NULL once they have set a password.
ALTER TABLE users ADD COLUMN invited_at bigint;

CREATE TABLE verification_tokens (
    -- SHA-256 of the token.
    token_hash bytea    NOT NULL PRIMARY KEY,
    user_id    uuid    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- The address that the token was sent to (users.email_key). It proves no other address.
    email_key  text    NOT NULL,
    expires_at bigint NOT NULL
);

CREATE INDEX verification_tokens_user ON verification_tokens (user_id);
CREATE INDEX verification_tokens_expiry ON verification_tokens (expires_at);

-- The new address that an account asked for last. It replaces the old one when the token comes back.
CREATE TABLE address_changes (
    user_id    uuid    NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    email      text    NOT NULL,
    email_key  text    NOT NULL,
    -- SHA-256 of the token. NULL until the mail is sent.
    token_hash bytea    UNIQUE,
    expires_at bigint NOT NULL
);

CREATE INDEX address_changes_expiry ON address_changes (expires_at);

-- SHA-256 of the kind and the recipient, of mails that are not queued or sent twice.
ALTER TABLE mail_queue ADD COLUMN repeat_key bytea;
CREATE UNIQUE INDEX mail_queue_repeat ON mail_queue (repeat_key);

-- The mails that were sent a short time ago, by the same key, until another one may be sent.
CREATE TABLE recent_mails (
    repeat_key bytea    NOT NULL PRIMARY KEY,
    until      bigint NOT NULL
);

CREATE INDEX recent_mails_until ON recent_mails (until);
