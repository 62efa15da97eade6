-- Further phrasings that a fact is taught in, without spaces at their end, as facts.prompt has none:
-- a newer fact of another target takes the place of the older one whichever of their texts they share.
CREATE TABLE phrasings (
    prompt TEXT NOT NULL,
    fact INTEGER NOT NULL REFERENCES facts (seq),
    PRIMARY KEY (prompt, fact)
) STRICT, WITHOUT ROWID;

CREATE INDEX phrasings_by_fact ON phrasings (fact);

INSERT OR IGNORE INTO phrasings (prompt, fact)
    SELECT rtrim(p.value, ' '), f.seq FROM facts f CROSS JOIN json_each(f.fact_json, '$.prompts') p
    WHERE instr(f.fact_json, '"prompts"');
