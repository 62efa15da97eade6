-- What the joint system of a version's facts was made of beside their keys, as a hash; '' where that
-- is not known, or there was no such system.
ALTER TABLE versions ADD COLUMN basis TEXT NOT NULL DEFAULT '';

DROP TRIGGER versions_fixed;

CREATE TRIGGER versions_fixed
BEFORE UPDATE OF version, parent, kind, created_ms, to_version, n_facts, live_facts, weights_hash,
    chain_hash, delta_hash, encoding, delta_bytes, editor_method, editor_hash, update_mode,
    modules_json, measures_json, keyframe, values_hash, basis ON versions
BEGIN
    SELECT RAISE(ABORT, 'a version is never changed');
END;
