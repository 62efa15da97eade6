-- What has happened to jobs and versions, for those who follow it. Triggers write it, so that an
-- event is in the transaction of what it tells, and no way of changing a job leaves one out. Ids
-- have no gaps, and none comes twice, since the last one is never dropped. data_json is what a
-- client gets; put together by hand, because a schema that is not trusted may not use SQLite's
-- functions for JSON. Ids, words and hashes are ours and need no escapes.

CREATE TABLE events (
    id INTEGER PRIMARY KEY,
    created_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    data_json TEXT NOT NULL
) STRICT;

-- The last 100000 are kept: one comes, at most one goes.
CREATE TRIGGER events_dropped
AFTER INSERT ON events
BEGIN
    DELETE FROM events WHERE id <= NEW.id - 100000;
END;

CREATE TRIGGER events_of_new_jobs
AFTER INSERT ON jobs
BEGIN
    INSERT INTO events (created_ms, kind, data_json)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), 'job',
        '{"id":"' || NEW.id || '","state":"' || NEW.state || '","kind":"' || NEW.kind || '"}');
END;

CREATE TRIGGER events_of_jobs
AFTER UPDATE OF state ON jobs
WHEN NEW.state <> OLD.state
BEGIN
    INSERT INTO events (created_ms, kind, data_json)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), 'job',
        '{"id":"' || NEW.id || '","state":"' || NEW.state || '","kind":"' || NEW.kind || '"'
            || coalesce(',"version":' || NEW.version, '') || '}');
END;

CREATE TRIGGER events_of_versions
AFTER INSERT ON versions
BEGIN
    INSERT INTO events (created_ms, kind, data_json)
    VALUES (CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER), 'version',
        '{"version":' || NEW.version || ',"kind":"' || NEW.kind || '","weights_hash":"'
            || NEW.weights_hash || '"}');
END;
