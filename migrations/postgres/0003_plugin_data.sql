-- The login role of each plugin's schema. Every node logs in with it; a plugin never sees it.
CREATE TABLE plugin_database (
    plugin text PRIMARY KEY,
    role text NOT NULL UNIQUE,
    password text NOT NULL
);

-- Tells the roles of this Wharf from those of others in the same cluster.
CREATE TABLE plugin_database_instance (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id text NOT NULL
);
