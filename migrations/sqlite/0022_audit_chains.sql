-- Each entry of the audit log gets a place in a chain and a hash over its content and the hash before it. The host's own
-- entries are one chain, and the entries that a plugin recorded are another, so that each can be pruned from its beginning.
ALTER TABLE audit ADD COLUMN chain TEXT;
ALTER TABLE audit ADD COLUMN sequence INTEGER;
-- The node that sealed the entry.
ALTER TABLE audit ADD COLUMN node TEXT;
-- SHA-256, in hexadecimal.
ALTER TABLE audit ADD COLUMN hash TEXT;

CREATE TABLE audit_chains (
    chain TEXT PRIMARY KEY,
    -- The last link.
    sequence INTEGER NOT NULL,
    hash TEXT NOT NULL,
    -- The last link that was pruned; 0 before the first pruning. `checkpoint` is the signed JSON about it.
    checkpoint_sequence INTEGER NOT NULL DEFAULT 0,
    checkpoint TEXT
) STRICT;

-- The public keys that signed checkpoints (Ed25519, base64url). They stay when a signing key is replaced and deleted.
CREATE TABLE audit_keys (
    public_key TEXT NOT NULL PRIMARY KEY
) STRICT;

CREATE UNIQUE INDEX audit_chain ON audit (chain, sequence);
CREATE INDEX audit_unsealed ON audit (id) WHERE sequence IS NULL;

-- The filters of the log. The objects and actions of plugins can be longer than an index of PostgreSQL allows.
DROP INDEX audit_at;
CREATE INDEX audit_time ON audit (at, id);
CREATE INDEX audit_actor ON audit (actor, at, id);
CREATE INDEX audit_action ON audit (substr(action, 1, 100), at, id);
CREATE INDEX audit_object ON audit (substr(object, 1, 100), at, id);
CREATE INDEX audit_request ON audit (request_id, at, id);

-- An entry is appended without a place in a chain. A statement with REPLACE would delete another one without a trigger.
CREATE TRIGGER audit_appended BEFORE INSERT ON audit
WHEN NEW.chain IS NOT NULL OR NEW.sequence IS NOT NULL OR NEW.node IS NOT NULL OR NEW.hash IS NOT NULL
    OR EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'an entry of the audit log is only appended');
END;

-- An entry never changes, except that it is sealed once. It is deleted only after a checkpoint was signed.
CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit
WHEN OLD.sequence IS NOT NULL
    OR NEW.id IS NOT OLD.id OR NEW.at IS NOT OLD.at OR NEW.actor IS NOT OLD.actor OR NEW.actor_key IS NOT OLD.actor_key
    OR NEW.address IS NOT OLD.address OR NEW.plugin IS NOT OLD.plugin OR NEW.action IS NOT OLD.action
    OR NEW.object IS NOT OLD.object OR NEW.outcome IS NOT OLD.outcome OR NEW.before IS NOT OLD.before
    OR NEW.after IS NOT OLD.after OR NEW.detail IS NOT OLD.detail OR NEW.request_id IS NOT OLD.request_id
    OR EXISTS (SELECT 1 FROM audit WHERE chain = NEW.chain AND sequence = NEW.sequence)
BEGIN
    SELECT RAISE(ABORT, 'an entry of the audit log never changes');
END;

CREATE TRIGGER audit_kept BEFORE DELETE ON audit
WHEN OLD.sequence IS NULL
    OR OLD.sequence > COALESCE((SELECT checkpoint_sequence FROM audit_chains WHERE chain = OLD.chain), 0)
BEGIN
    SELECT RAISE(ABORT, 'an entry of the audit log is deleted only after a checkpoint');
END;
