-- Retraction, the values of facts, keyframes and pruning.

-- Of a fact that is retracted: whether its keys stay in the joint system, so that its prompt gets
-- the base model's answer. 0 in every other state.
ALTER TABLE facts ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1));
ALTER TABLE fact_states ADD COLUMN pinned INTEGER NOT NULL DEFAULT 0 CHECK (pinned IN (0, 1));

-- Whose keys are in the joint system. It is asked for before every change, and the rows of facts
-- are long: the columns are all that the condition and the answer need.
CREATE INDEX facts_members ON facts (seq, pinned, state)
    WHERE state = 'live' OR pinned = 1;

-- keyframe: the whole shift of each module is among the version's blobs. values_hash: over the
-- fact_values stored with it, '' when there are none.
ALTER TABLE versions ADD COLUMN keyframe INTEGER NOT NULL DEFAULT 0 CHECK (keyframe IN (0, 1));
ALTER TABLE versions ADD COLUMN values_hash TEXT NOT NULL DEFAULT '';

DROP TRIGGER versions_fixed;

CREATE TRIGGER versions_fixed
BEFORE UPDATE OF version, parent, kind, created_ms, to_version, n_facts, live_facts, weights_hash,
    chain_hash, delta_hash, encoding, delta_bytes, editor_method, editor_hash, update_mode,
    modules_json, measures_json, keyframe, values_hash ON versions
BEGIN
    SELECT RAISE(ABORT, 'a version is never changed');
END;

CREATE TRIGGER versions_pruned
BEFORE UPDATE OF pruned ON versions
WHEN OLD.pruned = 1 AND NEW.pruned = 0
BEGIN
    SELECT RAISE(ABORT, 'what is pruned does not come back');
END;

-- Value differences of a fact, written whenever they change. As with blobs, those of a version
-- without a row are what a kill left behind.
CREATE TABLE fact_values (
    id INTEGER PRIMARY KEY,
    fact INTEGER NOT NULL REFERENCES facts (seq),
    version INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    data BLOB NOT NULL,
    UNIQUE (fact, version)
) STRICT;

CREATE INDEX fact_values_by_version ON fact_values (version, fact);

CREATE TRIGGER fact_values_fixed
BEFORE UPDATE ON fact_values
BEGIN
    SELECT RAISE(ABORT, 'the values of a fact are never changed');
END;

CREATE TRIGGER fact_values_staged
BEFORE INSERT ON fact_values
WHEN NEW.version <= (SELECT max(version) FROM versions)
BEGIN
    SELECT RAISE(ABORT, 'the version is published already');
END;
