-- The trusted keys that signed the component when it was deployed, a JSON list.
ALTER TABLE releases ADD COLUMN signed_by TEXT NOT NULL DEFAULT '[]';
