CREATE TABLE orders (id TEXT);
PRAGMA foreign_keys = off;
