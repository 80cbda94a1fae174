-- Whether a deploy made the plugin's database, so that one that comes to nothing takes it away again.
ALTER TABLE deploys ADD COLUMN made_data INTEGER NOT NULL DEFAULT 0 CHECK (made_data IN (0, 1));
