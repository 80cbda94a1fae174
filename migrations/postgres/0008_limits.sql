-- What bounds the calls of a release where an operator said so, as JSON: limits by name, as texts.
ALTER TABLE releases ADD COLUMN limits TEXT NOT NULL DEFAULT '{}';
