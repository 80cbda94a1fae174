-- Why a mail waits for another attempt; and numbers of mails that are never used again, which the audit log names.

CREATE TABLE numbered_mails (
    id            INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    kind          TEXT    NOT NULL,
    payload       TEXT    NOT NULL,
    -- The attempts that began.
    attempts      INTEGER NOT NULL DEFAULT 0,
    -- Not before this moment. While an attempt runs, the end of its lease.
    next_at       INTEGER NOT NULL,
    created_at    INTEGER NOT NULL,
    repeat_key    BLOB,
    source        TEXT    NOT NULL DEFAULT '',
    mail_id       TEXT,
    state         TEXT    NOT NULL DEFAULT 'waiting',
    reason        TEXT,
    waiting_since INTEGER NOT NULL DEFAULT 0,
    ended_at      INTEGER,
    bytes         INTEGER NOT NULL DEFAULT 1024,
    -- 'server': the mail server was away at the latest attempt. 'retry': the latest attempt failed otherwise, or the mail
    -- server is back. Null: no attempt was made yet, or one runs.
    waits_for     TEXT,
    -- The attempts in which the mail server may have taken the mail and did not say so.
    unconfirmed   INTEGER NOT NULL DEFAULT 0
) STRICT;

INSERT INTO numbered_mails (id, kind, payload, attempts, next_at, created_at, repeat_key, source, mail_id, state, reason,
        waiting_since, ended_at, bytes)
    SELECT id, kind, payload, attempts, next_at, created_at, repeat_key, source, mail_id, state, reason,
        waiting_since, ended_at, bytes FROM mail_queue;
DROP TABLE mail_queue;
ALTER TABLE numbered_mails RENAME TO mail_queue;

CREATE UNIQUE INDEX mail_queue_repeat ON mail_queue (repeat_key);
CREATE INDEX mail_queue_due ON mail_queue (source, next_at, id) WHERE state = 'waiting';
CREATE UNIQUE INDEX mail_queue_mail ON mail_queue (mail_id);
-- With all columns of the counts.
CREATE INDEX mail_queue_states ON mail_queue (source, state, id, bytes, waiting_since);
CREATE INDEX mail_queue_dead ON mail_queue (id) WHERE state = 'dead';
CREATE INDEX mail_queue_server ON mail_queue (id) WHERE state = 'waiting' AND waits_for = 'server';
