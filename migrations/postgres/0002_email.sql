-- The queue of outgoing mail. A row is claimed by moving `next_at` past a lease, deleted once the mail is sent or given up.
-- The payload names whom a mail is for; it never holds a token or a password.

CREATE TABLE mail_queue (
    id         bigint NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind       text   NOT NULL,
    -- JSON.
    payload    text   NOT NULL,
    attempts   bigint NOT NULL DEFAULT 0,
    -- Not before this moment.
    next_at    bigint NOT NULL,
    created_at bigint NOT NULL
);

CREATE INDEX mail_queue_due ON mail_queue (next_at, id);
