-- The first schema. Words of kinds and states are those of the API; NULL is "not yet" or "none";
-- times are milliseconds since 1970 UTC. References to versions are deferred because a version's
-- row carries the count of live facts and is therefore the last thing its transaction writes; for
-- that insert SQLite looks for the rows that wait for it, so each such reference has an index.

CREATE TABLE meta (
    key TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    kind TEXT NOT NULL,
    state TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    started_ms INTEGER,
    finished_ms INTEGER,
    n_facts INTEGER NOT NULL,
    version INTEGER REFERENCES versions (version) DEFERRABLE INITIALLY DEFERRED,
    to_version INTEGER,
    note TEXT,
    request_json TEXT,
    result_json TEXT,
    error_json TEXT
) STRICT;

CREATE INDEX jobs_by_state ON jobs (state);
CREATE INDEX jobs_by_kind ON jobs (kind);
CREATE INDEX jobs_by_version ON jobs (version);

-- state and superseded_by are the newest row of fact_states once a fact has one; before that the
-- fact is queued, rejected or failed.
CREATE TABLE facts (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    job INTEGER NOT NULL REFERENCES jobs (seq),
    idx INTEGER NOT NULL,
    state TEXT NOT NULL,
    version INTEGER REFERENCES versions (version) DEFERRABLE INITIALLY DEFERRED,
    prompt TEXT NOT NULL,
    target TEXT NOT NULL,
    fact_json TEXT NOT NULL,
    verified_json TEXT,
    superseded_by INTEGER REFERENCES facts (seq),
    UNIQUE (job, idx)
) STRICT;

CREATE INDEX facts_by_state ON facts (state);
CREATE INDEX facts_by_prompt ON facts (prompt);
CREATE INDEX facts_by_version ON facts (version);

CREATE TABLE versions (
    version INTEGER PRIMARY KEY CHECK (version >= 0),
    parent INTEGER REFERENCES versions (version),
    kind TEXT NOT NULL,
    created_ms INTEGER NOT NULL,
    to_version INTEGER REFERENCES versions (version),
    n_facts INTEGER NOT NULL,
    live_facts INTEGER NOT NULL,
    weights_hash TEXT NOT NULL,
    chain_hash TEXT NOT NULL,
    delta_hash TEXT NOT NULL,
    encoding TEXT NOT NULL,
    delta_bytes INTEGER NOT NULL,
    editor_method TEXT NOT NULL,
    editor_hash TEXT NOT NULL,
    update_mode TEXT NOT NULL,
    modules_json TEXT NOT NULL,
    measures_json TEXT NOT NULL,
    pruned INTEGER NOT NULL DEFAULT 0 CHECK (pruned IN (0, 1))
) STRICT;

CREATE TRIGGER versions_fixed
BEFORE UPDATE OF version, parent, kind, created_ms, to_version, n_facts, live_facts, weights_hash,
    chain_hash, delta_hash, encoding, delta_bytes, editor_method, editor_hash, update_mode,
    modules_json, measures_json ON versions
BEGIN
    SELECT RAISE(ABORT, 'a version is never changed');
END;

CREATE TRIGGER versions_kept
BEFORE DELETE ON versions
BEGIN
    SELECT RAISE(ABORT, 'a version is never deleted');
END;

-- The jobs that made a version. That a job makes at most one is what UNIQUE says.
CREATE TABLE version_jobs (
    version INTEGER NOT NULL REFERENCES versions (version) DEFERRABLE INITIALLY DEFERRED,
    idx INTEGER NOT NULL,
    job INTEGER NOT NULL UNIQUE REFERENCES jobs (seq),
    PRIMARY KEY (version, idx)
) STRICT, WITHOUT ROWID;

-- What became of a fact, version by version; only changes are written. Its state in version v is
-- the newest row up to v, so a rollback restores not only which facts are live but also which
-- are superseded, and by what.
CREATE TABLE fact_states (
    fact INTEGER NOT NULL REFERENCES facts (seq),
    version INTEGER NOT NULL REFERENCES versions (version) DEFERRABLE INITIALLY DEFERRED,
    state TEXT NOT NULL,
    by_fact INTEGER REFERENCES facts (seq),
    PRIMARY KEY (fact, version)
) STRICT, WITHOUT ROWID;

CREATE INDEX fact_states_by_version ON fact_states (version);

CREATE TRIGGER fact_states_fixed
BEFORE UPDATE ON fact_states
BEGIN
    SELECT RAISE(ABORT, 'the history of a fact is never changed');
END;

CREATE TABLE idempotency (
    key TEXT PRIMARY KEY,
    body_hash TEXT NOT NULL,
    answer TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT;

-- Staged before the version's row is there, so `version` refers to nothing; rows above the
-- highest version are what a kill left behind.
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY,
    version INTEGER NOT NULL,
    name TEXT NOT NULL,
    header_json TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL CHECK (bytes >= 0),
    UNIQUE (version, name)
) STRICT;

CREATE TABLE blob_chunks (
    id INTEGER PRIMARY KEY,
    blob INTEGER NOT NULL REFERENCES blobs (id) ON DELETE CASCADE,
    idx INTEGER NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (blob, idx)
) STRICT;

CREATE TRIGGER blobs_fixed
BEFORE UPDATE ON blobs
BEGIN
    SELECT RAISE(ABORT, 'a blob is never changed');
END;

CREATE TRIGGER blob_chunks_fixed
BEFORE UPDATE ON blob_chunks
BEGIN
    SELECT RAISE(ABORT, 'a blob is never changed');
END;

CREATE TRIGGER blobs_staged
BEFORE INSERT ON blobs
WHEN NEW.version <= (SELECT max(version) FROM versions)
BEGIN
    SELECT RAISE(ABORT, 'the version is published already');
END;

CREATE TRIGGER blob_chunks_staged
BEFORE INSERT ON blob_chunks
WHEN (SELECT version FROM blobs WHERE id = NEW.blob) <= (SELECT max(version) FROM versions)
BEGIN
    SELECT RAISE(ABORT, 'the version is published already');
END;
