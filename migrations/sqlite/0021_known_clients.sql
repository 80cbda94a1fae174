-- The networks from which the owner of an account signed in. While others guess the password of the account, they may
-- still sign in.
CREATE TABLE known_clients (
    user_id      TEXT    NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    -- An IPv4 address with /32, or an IPv6 network with /56.
    network      TEXT    NOT NULL,
    last_used_at INTEGER NOT NULL,
    PRIMARY KEY (user_id, network)
) STRICT;
