-- Mails of plugins, in the queue of the host's mails; and mails that were given up, which are kept for operators.

-- The plugin; empty: the host.
ALTER TABLE mail_queue ADD COLUMN source text NOT NULL DEFAULT '';
-- The same at each attempt: the Message-ID comes from it. Null: of an earlier version.
ALTER TABLE mail_queue ADD COLUMN mail_id uuid;
-- 'waiting' or 'dead'.
ALTER TABLE mail_queue ADD COLUMN state text NOT NULL DEFAULT 'waiting';
-- The reason of the latest failure.
ALTER TABLE mail_queue ADD COLUMN reason text;
-- Since when it is tried: its age decides when it is given up.
ALTER TABLE mail_queue ADD COLUMN waiting_since bigint NOT NULL DEFAULT 0;
-- When it was given up.
ALTER TABLE mail_queue ADD COLUMN ended_at bigint;
-- The share of the bounds of its source.
ALTER TABLE mail_queue ADD COLUMN bytes bigint NOT NULL DEFAULT 1024;

UPDATE mail_queue SET waiting_since = created_at;

DROP INDEX mail_queue_due;
CREATE INDEX mail_queue_due ON mail_queue (source, next_at, id) WHERE state = 'waiting';
CREATE UNIQUE INDEX mail_queue_mail ON mail_queue (mail_id);
-- With all columns of the counts.
CREATE INDEX mail_queue_states ON mail_queue (source, state, id, bytes, waiting_since);
CREATE INDEX mail_queue_dead ON mail_queue (id) WHERE state = 'dead';

-- The mails that plugins sent a short time ago. A mail that comes a second time, or another one with its key, is left out.
CREATE TABLE mail_receipts (
    mail_id   uuid   NOT NULL PRIMARY KEY,
    source    text   NOT NULL,
    -- Null: no other mail is left out because of it, or not any more.
    dedup_key text,
    queued_at bigint NOT NULL,
    UNIQUE (source, dedup_key)
);

CREATE INDEX mail_receipts_age ON mail_receipts (queued_at);

-- Operators may look at mails and act on them, unless somebody took the operation of plugins from their role.
INSERT INTO role_permissions (role, permission)
    SELECT role, 'mail:read' FROM role_permissions WHERE role = 'operator' AND permission = 'plugins:operate';
INSERT INTO role_permissions (role, permission)
    SELECT role, 'mail:operate' FROM role_permissions WHERE role = 'operator' AND permission = 'plugins:operate';
