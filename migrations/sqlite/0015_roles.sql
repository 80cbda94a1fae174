-- Roles: sets of permissions that accounts get. The flag is_superuser of an account stays the truth of the role superuser;
-- its row holds only whether it requires a second factor.
CREATE TABLE roles (
    name                   TEXT    NOT NULL PRIMARY KEY,
    description            TEXT    NOT NULL,
    -- New accounts get the role.
    is_default             INTEGER NOT NULL CHECK (is_default IN (0, 1)),
    -- The role gives its permissions only to sessions with two factors.
    requires_second_factor INTEGER NOT NULL CHECK (requires_second_factor IN (0, 1)),
    created_at             INTEGER NOT NULL
) STRICT;

-- At most one role is the default.
CREATE UNIQUE INDEX roles_default ON roles (is_default) WHERE is_default = 1;

CREATE TABLE role_permissions (
    role       TEXT NOT NULL REFERENCES roles (name) ON DELETE CASCADE,
    -- namespace:name. A permission of a plugin stays when the plugin is removed or declares it no longer.
    permission TEXT NOT NULL,
    PRIMARY KEY (role, permission)
) STRICT;

CREATE TABLE user_roles (
    user_id TEXT NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role    TEXT NOT NULL REFERENCES roles (name),
    PRIMARY KEY (user_id, role)
) STRICT;

CREATE INDEX user_roles_role ON user_roles (role);

INSERT INTO roles (name, description, is_default, requires_second_factor, created_at) VALUES
    ('superuser', 'Every permission.', 0, 0, 0),
    ('operator', 'Deploys and operates plugins. Reads the audit log, the settings and the metrics.', 0, 0, 0),
    ('member', 'What every account may do.', 1, 0, 0);

INSERT INTO role_permissions (role, permission) VALUES
    ('operator', 'plugins:read'),
    ('operator', 'plugins:deploy'),
    ('operator', 'plugins:operate'),
    ('operator', 'plugins:rollback'),
    ('operator', 'plugins:remove'),
    ('operator', 'audit:read'),
    ('operator', 'settings:read'),
    ('operator', 'metrics:read');

INSERT INTO user_roles (user_id, role) SELECT id, 'member' FROM users;

-- How many factors the sign-in had: 'single' or 'multi'.
ALTER TABLE sessions ADD COLUMN strength TEXT NOT NULL DEFAULT 'single' CHECK (strength IN ('single', 'multi'));
-- When the user last proved again that it is they.
ALTER TABLE sessions ADD COLUMN stepped_up_at INTEGER;

-- The API key and the address of the client of an audited action, and the object before and after it (JSON).
ALTER TABLE audit ADD COLUMN actor_key TEXT;
ALTER TABLE audit ADD COLUMN address TEXT;
ALTER TABLE audit ADD COLUMN before TEXT;
ALTER TABLE audit ADD COLUMN after TEXT;
