-- How weights are hashed: 'pieces' (core/weights_digest.h), said before the first version is
-- published, or 'whole', as it was when nothing was said.

INSERT INTO meta (key, value) SELECT 'weights_hash', 'whole' WHERE EXISTS (SELECT 1 FROM versions);
