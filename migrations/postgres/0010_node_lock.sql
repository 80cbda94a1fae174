-- The host that serves from this database. Each connection of a host names its holder in the setting wharf.holder. A host
-- that was replaced as the holder cannot change plugins any more; programs without a holder, such as psql, can.
CREATE TABLE node_lock (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    holder TEXT NOT NULL
);

-- The row lock orders a change and the takeover by another host: each waits for the other, and then sees it.
CREATE FUNCTION check_holder() RETURNS trigger LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF current_setting('wharf.holder', TRUE) <> '' THEN
        PERFORM FROM node_lock WHERE holder = current_setting('wharf.holder') FOR SHARE;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'another wharf took over this database' USING ERRCODE = 'WH001';
        END IF;
    END IF;
    RETURN NULL;
END
$$;

CREATE TRIGGER check_holder BEFORE INSERT OR UPDATE OR DELETE ON plugins
    FOR EACH STATEMENT EXECUTE FUNCTION check_holder();
CREATE TRIGGER check_holder BEFORE INSERT OR UPDATE OR DELETE ON releases
    FOR EACH STATEMENT EXECUTE FUNCTION check_holder();
