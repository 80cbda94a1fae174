-- The host that serves from this database, as on PostgreSQL. Not used on SQLite, where the data directory has a lock.
CREATE TABLE node_lock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    holder TEXT NOT NULL
);
