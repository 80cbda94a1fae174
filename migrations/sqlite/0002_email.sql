-- The queue of outgoing mail. A row is claimed by moving `next_at` past a lease, deleted once the mail is sent or given up.
-- The payload names whom a mail is for; it never holds a token or a password.

CREATE TABLE mail_queue (
    id         INTEGER NOT NULL PRIMARY KEY,
    kind       TEXT    NOT NULL,
    -- JSON.
    payload    TEXT    NOT NULL,
    attempts   INTEGER NOT NULL DEFAULT 0,
    -- Not before this moment.
    next_at    INTEGER NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;

CREATE INDEX mail_queue_due ON mail_queue (next_at, id);
