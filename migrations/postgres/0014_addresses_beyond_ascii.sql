-- The accounts whose keys the host computes again at each start: a process of an earlier version, which still runs next to
-- this one, adds them with another key. They are few, and a start must not read all accounts.
CREATE INDEX users_beyond_ascii ON users (id) WHERE email ~ '[^ -~]';
