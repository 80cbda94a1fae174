-- What an operator does with releases beside deploying them; what became of each deploy.
ALTER TABLE plugins ADD COLUMN paused INTEGER NOT NULL DEFAULT 0;
-- The release on trial beside the live one and how it is tried, as JSON; NULL: none.
ALTER TABLE plugins ADD COLUMN canary TEXT;
-- Capabilities that an operator took back, a JSON list; no release that needs one of them is served.
ALTER TABLE plugins ADD COLUMN revoked TEXT NOT NULL DEFAULT '[]';
-- The migrations that its database has seen, as JSON: names, and the oldest one whose releases can run after each.
ALTER TABLE plugins ADD COLUMN schema TEXT NOT NULL DEFAULT '[]';
-- Bytes of the component, so that a list of releases need not read it.
ALTER TABLE releases ADD COLUMN size INTEGER NOT NULL DEFAULT 0;
UPDATE releases SET size = (SELECT length(component) FROM artifacts WHERE artifacts.digest = releases.digest);
-- When it was last made the live one; NULL: never, as one that was only tried.
ALTER TABLE releases ADD COLUMN live_at INTEGER;
UPDATE releases SET live_at = created_at;
-- Its migrations, as JSON like `plugins.schema`.
ALTER TABLE releases ADD COLUMN migrations TEXT NOT NULL DEFAULT '[]';

-- One row for each deploy, from its first stage on. `stages` is JSON: what was done and how long it took.
CREATE TABLE deploys (
    id TEXT PRIMARY KEY,
    plugin TEXT,
    digest TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('running', 'succeeded', 'failed', 'interrupted')),
    stage TEXT NOT NULL,
    stages TEXT NOT NULL,
    release INTEGER,
    code TEXT,
    reason TEXT,
    actor TEXT,
    request_id TEXT NOT NULL,
    node TEXT NOT NULL,
    started_at INTEGER NOT NULL,
    changed_at INTEGER NOT NULL
) STRICT;
CREATE INDEX deploys_plugin ON deploys (plugin, started_at);
CREATE INDEX audit_plugin ON audit (plugin, id);
