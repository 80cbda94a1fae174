-- Each entry of the audit log gets a place in a chain and a hash over its content and the hash before it. The host's own
-- entries are one chain, and the entries that a plugin recorded are another, so that each can be pruned from its beginning.
ALTER TABLE audit ADD COLUMN chain TEXT;
ALTER TABLE audit ADD COLUMN sequence BIGINT;
-- The node that sealed the entry.
ALTER TABLE audit ADD COLUMN node TEXT;
-- SHA-256, in hexadecimal.
ALTER TABLE audit ADD COLUMN hash TEXT;

CREATE TABLE audit_chains (
    chain TEXT PRIMARY KEY,
    -- The last link.
    sequence BIGINT NOT NULL,
    hash TEXT NOT NULL,
    -- The last link that was pruned; 0 before the first pruning. `checkpoint` is the signed JSON about it.
    checkpoint_sequence BIGINT NOT NULL DEFAULT 0,
    checkpoint TEXT
);

-- The public keys that signed checkpoints (Ed25519, base64url). They stay when a signing key is replaced and deleted.
CREATE TABLE audit_keys (
    public_key TEXT NOT NULL PRIMARY KEY
);

CREATE UNIQUE INDEX audit_chain ON audit (chain, sequence);
CREATE INDEX audit_unsealed ON audit (id) WHERE sequence IS NULL;

-- The filters of the log. The objects and actions of plugins can be longer than an index of PostgreSQL allows.
DROP INDEX audit_at;
CREATE INDEX audit_time ON audit (at, id);
CREATE INDEX audit_actor ON audit (actor, at, id);
CREATE INDEX audit_action ON audit (substr(action, 1, 100), at, id);
CREATE INDEX audit_object ON audit (substr(object, 1, 100), at, id);
CREATE INDEX audit_request ON audit (request_id, at, id);

-- An entry is appended without a place in a chain.
CREATE FUNCTION audit_appended() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.chain IS NOT NULL OR NEW.sequence IS NOT NULL OR NEW.node IS NOT NULL OR NEW.hash IS NOT NULL THEN
        RAISE EXCEPTION 'an entry of the audit log is only appended';
    END IF;
    RETURN NEW;
END
$$;

-- An entry never changes, except that it is sealed once. It is deleted only after a checkpoint was signed.
CREATE FUNCTION audit_unchanged() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    seal CONSTANT TEXT[] := ARRAY['chain', 'sequence', 'node', 'hash'];
BEGIN
    IF OLD.sequence IS NOT NULL OR to_jsonb(NEW) - seal <> to_jsonb(OLD) - seal THEN
        RAISE EXCEPTION 'an entry of the audit log never changes';
    END IF;
    RETURN NEW;
END
$$;

CREATE FUNCTION audit_kept() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF OLD.sequence IS NULL
        OR OLD.sequence > COALESCE((SELECT checkpoint_sequence FROM audit_chains WHERE chain = OLD.chain), 0)
    THEN
        RAISE EXCEPTION 'an entry of the audit log is deleted only after a checkpoint';
    END IF;
    RETURN OLD;
END
$$;

CREATE FUNCTION audit_not_emptied() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'the audit log is never emptied';
END
$$;

CREATE TRIGGER audit_appended BEFORE INSERT ON audit FOR EACH ROW EXECUTE FUNCTION audit_appended();
CREATE TRIGGER audit_unchanged BEFORE UPDATE ON audit FOR EACH ROW EXECUTE FUNCTION audit_unchanged();
CREATE TRIGGER audit_kept BEFORE DELETE ON audit FOR EACH ROW EXECUTE FUNCTION audit_kept();
CREATE TRIGGER audit_not_emptied BEFORE TRUNCATE ON audit FOR EACH STATEMENT EXECUTE FUNCTION audit_not_emptied();
