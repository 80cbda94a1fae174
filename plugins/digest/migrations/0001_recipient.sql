-- The users who get digests. Days are texts such as 2026-11-30, which sort as they are.
CREATE TABLE recipient (
    user_id TEXT PRIMARY KEY,
    since TEXT NOT NULL,
    -- The day of the latest digest.
    last_day TEXT
);

-- The latest change of each item. A row stays until the next digest after the one that had it, so that a repeated event is
-- recognised.
CREATE TABLE item_change (
    user_id TEXT NOT NULL REFERENCES recipient (user_id) ON DELETE CASCADE,
    item_id TEXT NOT NULL,
    kind TEXT NOT NULL,
    title TEXT,
    event_id TEXT NOT NULL,
    -- The day of the digest that had it. Before that, it is null.
    day TEXT,
    PRIMARY KEY (user_id, item_id)
);
