-- Events that the host and its plugins published. They are kept for a while, so that clients can resume their streams.
CREATE TABLE events (
    -- The order of the commits.
    seq          INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    id           TEXT    NOT NULL UNIQUE,
    -- `user.deleted`, `items.created`.
    topic        TEXT    NOT NULL,
    -- The plugin that published it; null: the host.
    source       TEXT,
    -- Events of one source with one key keep their order.
    ordering_key TEXT,
    -- JSON.
    payload      TEXT    NOT NULL,
    -- The account whose clients may receive it; null: all that the topic admits.
    audience     TEXT,
    -- How many events and jobs caused each other before it.
    depth        INTEGER NOT NULL,
    request_id   TEXT,
    published_at INTEGER NOT NULL
) STRICT;

CREATE INDEX events_age ON events (published_at);

-- One row: the newest event that was deleted because of its age. A client that resumes its stream before it may have
-- missed some.
CREATE TABLE event_horizon (
    seq          INTEGER NOT NULL
) STRICT;

INSERT INTO event_horizon (seq) VALUES (0);

-- The topics to which each release subscribes.
CREATE TABLE release_subscriptions (
    plugin  TEXT    NOT NULL,
    release INTEGER NOT NULL,
    topic   TEXT    NOT NULL,
    PRIMARY KEY (plugin, release, topic),
    FOREIGN KEY (plugin, release) REFERENCES releases (plugin, number) ON DELETE CASCADE
) STRICT;

CREATE INDEX release_subscriptions_topic ON release_subscriptions (topic);

-- The work of plugins: the deliveries of events, and jobs.
CREATE TABLE tasks (
    seq           INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
    -- The id of a job; null for a delivery.
    id            TEXT    UNIQUE,
    plugin        TEXT    NOT NULL,
    kind          TEXT    NOT NULL CHECK (kind IN ('delivery', 'job')),
    -- `PLUGIN/NAME/PRIORITY`: what is claimed together, in the order of `due_at`.
    queue         TEXT    NOT NULL,
    -- The topic or the job.
    name          TEXT    NOT NULL,
    event_seq     INTEGER REFERENCES events (seq),
    -- JSON, of a job.
    payload       TEXT,
    -- The deliveries of one plugin in one lane keep their order: only the first one that has not ended is not blocked.
    lane          TEXT,
    dedup_key     TEXT,
    -- The schedule and its time that caused the job.
    schedule      TEXT,
    scheduled_at  INTEGER,
    state         TEXT    NOT NULL CHECK (state IN ('ready', 'blocked', 'running', 'done', 'dead', 'cancelled')),
    -- Attempts that began and were not interrupted.
    attempts      INTEGER NOT NULL DEFAULT 0,
    -- Attempts that ended with their process.
    interruptions INTEGER NOT NULL DEFAULT 0,
    -- How often it was claimed. With `seq`, this names one claim.
    claims        INTEGER NOT NULL DEFAULT 0,
    -- Ready: the earliest start. Running: the end of the lease.
    due_at        INTEGER NOT NULL,
    -- The earliest start when it was added or retried by an operator: how long it has waited.
    first_due_at  INTEGER NOT NULL,
    -- Running: the process, as `NODE/RUN`.
    owner         TEXT,
    depth         INTEGER NOT NULL,
    request_id    TEXT,
    -- The reason of the latest failure.
    reason        TEXT,
    -- The output of a job that succeeded.
    output        TEXT,
    progress_done  INTEGER,
    progress_total INTEGER,
    created_at    INTEGER NOT NULL,
    ended_at      INTEGER,
    -- Done and cancelled: when the row is deleted.
    keep_until    INTEGER
) STRICT;

CREATE INDEX tasks_ready ON tasks (queue, due_at, seq) WHERE state = 'ready';
CREATE INDEX tasks_leases ON tasks (due_at) WHERE state = 'running';
CREATE INDEX tasks_lanes ON tasks (plugin, lane, seq) WHERE lane IS NOT NULL AND state IN ('ready', 'blocked', 'running');
CREATE INDEX tasks_blocked ON tasks (plugin, lane) WHERE state = 'blocked';
CREATE UNIQUE INDEX tasks_dedup ON tasks (plugin, name, dedup_key)
    WHERE dedup_key IS NOT NULL AND state IN ('ready', 'blocked', 'running');
-- With all columns of the counts.
CREATE INDEX tasks_states ON tasks (plugin, state, seq, kind, queue, first_due_at);
CREATE INDEX tasks_dead ON tasks (seq) WHERE state = 'dead';
CREATE INDEX tasks_kept ON tasks (keep_until) WHERE keep_until IS NOT NULL;
CREATE INDEX tasks_event ON tasks (event_seq) WHERE event_seq IS NOT NULL;

-- The schedules of the live releases.
CREATE TABLE schedules (
    plugin    TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    -- The declaration, JSON.
    declared  TEXT    NOT NULL,
    -- The next time.
    next_at   INTEGER NOT NULL,
    -- The latest time at which the job was enqueued.
    last_at   INTEGER,
    -- An operator paused it.
    paused    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (plugin, name)
) STRICT;

CREATE INDEX schedules_next ON schedules (next_at) WHERE NOT paused;

-- Until now, a plugin could have the name `tasks`. Roles and API keys that have its permissions do not get those of the host.
DELETE FROM role_permissions WHERE permission IN ('tasks:read', 'tasks:operate');
UPDATE api_keys SET permissions =
    replace(replace(permissions, '"tasks:read"', '"tasks:former-read"'), '"tasks:operate"', '"tasks:former-operate"')
    WHERE permissions LIKE '%"tasks:%';

-- Operators may look at tasks and act on them, unless somebody took the operation of plugins from their role.
INSERT INTO role_permissions (role, permission)
    SELECT role, 'tasks:read' FROM role_permissions WHERE role = 'operator' AND permission = 'plugins:operate';
INSERT INTO role_permissions (role, permission)
    SELECT role, 'tasks:operate' FROM role_permissions WHERE role = 'operator' AND permission = 'plugins:operate';
