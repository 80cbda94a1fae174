-- The overlap of signing keys at a rotation. Kept in step with the file of the same name for PostgreSQL.

-- A key is published before it signs, so that services that keep the published keys know it in time.
ALTER TABLE signing_keys ADD COLUMN signs_from INTEGER NOT NULL DEFAULT 0;
-- A replaced key verifies until its last token has expired. NULL means that no other key has replaced it.
ALTER TABLE signing_keys ADD COLUMN expires_at INTEGER;
