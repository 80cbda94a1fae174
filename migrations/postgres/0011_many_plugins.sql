-- What a start and a change need, so that they do not read the data of all plugins.
-- The interfaces that the component of a release imports, a JSON list. Empty for the releases before this migration.
ALTER TABLE releases ADD COLUMN imports TEXT NOT NULL DEFAULT '[]';
-- Whether another release uses a file.
CREATE INDEX releases_digest ON releases (digest);
-- The records of deploys that are old enough to be deleted.
CREATE INDEX deploys_changed ON deploys (changed_at);
