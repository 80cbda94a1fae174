-- The accounts whose key (`users.email_key`) an earlier version computed without normalization. SQL cannot normalize, so
-- the host computes these keys again at its next start and empties the table. A key in ASCII is the same in both ways.
CREATE TABLE old_address_keys (
    user_id TEXT NOT NULL PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE
) STRICT;

INSERT INTO old_address_keys SELECT id FROM users WHERE email GLOB '*[^ -~]*';
