-- Who asked for a change, and from where. A row is written in the transaction of what it is about
-- and stays as it is.

-- who: a token's name, 'uid:N' of a Unix socket's peer, 'local' where nothing is asked of callers.
-- origin: the peer's address, or 'unix:N'. action: method and path as the API describes them.
CREATE TABLE audit (
    id INTEGER PRIMARY KEY,
    created_ms INTEGER NOT NULL,
    who TEXT NOT NULL,
    role TEXT NOT NULL,
    origin TEXT NOT NULL,
    action TEXT NOT NULL,
    request_id TEXT NOT NULL,
    job INTEGER NOT NULL REFERENCES jobs (seq),
    detail TEXT NOT NULL
) STRICT;

CREATE INDEX audit_by_who ON audit (who);
CREATE INDEX audit_by_action ON audit (action);
CREATE INDEX audit_by_job ON audit (job);

CREATE TRIGGER audit_fixed
BEFORE UPDATE ON audit
BEGIN
    SELECT RAISE(ABORT, 'what was done stays written');
END;

CREATE TRIGGER audit_kept
BEFORE DELETE ON audit
BEGIN
    SELECT RAISE(ABORT, 'what was done stays written');
END;

-- REPLACE deletes without asking the trigger above.
CREATE TRIGGER audit_added
BEFORE INSERT ON audit
WHEN EXISTS (SELECT 1 FROM audit WHERE id = NEW.id)
BEGIN
    SELECT RAISE(ABORT, 'what was done stays written');
END;
