-- The release that was live when this one became the live one: the one that a rollback serves again. NULL: none.
ALTER TABLE releases ADD COLUMN replaced BIGINT;
UPDATE releases SET replaced = (
    SELECT MAX(earlier.number) FROM releases earlier
    WHERE earlier.plugin = releases.plugin AND earlier.number < releases.number AND earlier.live_at IS NOT NULL
) WHERE live_at IS NOT NULL;
