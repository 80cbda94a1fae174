-- Roles: sets of permissions that accounts get. The flag is_superuser of an account stays the truth of the role superuser;
-- its row holds only whether it requires a second factor.
CREATE TABLE roles (
    name                   text    NOT NULL PRIMARY KEY,
    description            text    NOT NULL,
    -- New accounts get the role.
    is_default             boolean NOT NULL,
    -- The role gives its permissions only to sessions with two factors.
    requires_second_factor boolean NOT NULL,
    created_at             bigint NOT NULL
);

-- At most one role is the default.
CREATE UNIQUE INDEX roles_default ON roles (is_default) WHERE is_default;

CREATE TABLE role_permissions (
    role       text NOT NULL REFERENCES roles (name) ON DELETE CASCADE,
    -- namespace:name. A permission of a plugin stays when the plugin is removed or declares it no longer.
    permission text NOT NULL,
    PRIMARY KEY (role, permission)
);

CREATE TABLE user_roles (
    user_id uuid NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role    text NOT NULL REFERENCES roles (name),
    PRIMARY KEY (user_id, role)
);

CREATE INDEX user_roles_role ON user_roles (role);

INSERT INTO roles (name, description, is_default, requires_second_factor, created_at) VALUES
    ('superuser', 'Every permission.', false, false, 0),
    ('operator', 'Deploys and operates plugins. Reads the audit log, the settings and the metrics.', false, false, 0),
    ('member', 'What every account may do.', true, false, 0);

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
ALTER TABLE sessions ADD COLUMN strength text NOT NULL DEFAULT 'single' CHECK (strength IN ('single', 'multi'));
-- When the user last proved again that it is they.
ALTER TABLE sessions ADD COLUMN stepped_up_at bigint;

-- The API key and the address of the client of an audited action, and the object before and after it (JSON).
ALTER TABLE audit ADD COLUMN actor_key uuid;
ALTER TABLE audit ADD COLUMN address text;
ALTER TABLE audit ADD COLUMN before text;
ALTER TABLE audit ADD COLUMN after text;
