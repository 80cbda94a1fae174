-- One text for SQLite and PostgreSQL: times are RFC 3339 texts of one length, which sort as they are.
CREATE TABLE item (
    id TEXT PRIMARY KEY,
    title TEXT NOT NULL,
    description TEXT,
    owner_id TEXT NOT NULL,
    created_at TEXT NOT NULL
);

-- The two lists there are, each in the order it is read: one owner's, and everybody's.
CREATE INDEX item_owner_newest ON item (owner_id, created_at DESC, id);
CREATE INDEX item_newest ON item (created_at DESC, id);
