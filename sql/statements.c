/* statements.c - the SQL of the store. Lists take optional filters as parameters that may
 * be NULL; each has one variant per index that can carry it, since SQLite plans a
 * statement once. */
#include "sql/statements.h"

/* The facts of an evaluation are long, and nobody's who reads many rows. */
#define JOB_COLUMNS                                                                  \
    "SELECT id, kind, state, created_ms, started_ms, finished_ms, n_facts, version," \
    " to_version, note, iif(kind = 'evaluation', NULL, request_json), result_json,"  \
    " error_json FROM jobs "

/* ?1 kind, ?2 state, ?3 before this seq, ?4 limit */
#define JOB_PAGE                                                                 \
    " AND (?1 IS NULL OR kind = ?1) AND (?2 IS NULL OR state = ?2) AND seq < ?3" \
    " ORDER BY seq DESC LIMIT ?4"

#define AUDIT_COLUMNS                                                             \
    "SELECT a.id, a.created_ms, a.who, a.role, a.origin, a.action, a.request_id," \
    " j.id, a.detail FROM audit a CROSS JOIN jobs j ON j.seq = a.job "

/* ?1 who, ?2 action, ?3 job seq, ?4 before this id, ?5 limit */
#define AUDIT_PAGE                                                      \
    " AND (?1 IS NULL OR a.who = ?1) AND (?2 IS NULL OR a.action = ?2)" \
    " AND (?3 IS NULL OR a.job = ?3) AND a.id < ?4 ORDER BY a.id DESC LIMIT ?5"

/* CROSS JOIN: facts is the outer loop, whatever the planner thinks of jobs. */
#define FACT_COLUMNS                                                           \
    "SELECT f.seq, f.id, j.id, f.idx, f.state, f.version, f.prompt, f.target," \
    " f.fact_json, f.verified_json, s.id, f.pinned"                            \
    " FROM facts f CROSS JOIN jobs j ON j.seq = f.job"                         \
    " LEFT JOIN facts s ON s.seq = f.superseded_by "

/* ?1 state, ?2 version, ?3 prompt, ?4 job seq, ?5 beyond this seq, ?6 limit, ?7 a text in
 * the prompt */
#define FACT_FILTERS                                                                  \
    " AND (?1 IS NULL OR f.state = ?1) AND (?3 IS NULL OR f.prompt = rtrim(?3, ' '))" \
    " AND (?4 IS NULL OR f.job = ?4)"                                                 \
    " AND (?7 IS NULL OR f.prompt LIKE '%' || replace(replace(replace(?7,"            \
    "      '\\', '\\\\'), '%', '\\%'), '_', '\\_') || '%' ESCAPE '\\')"               \
    " AND (?2 IS NULL OR (SELECT h.state FROM fact_states h WHERE h.fact = f.seq"     \
    "      AND h.version <= ?2 ORDER BY h.version DESC LIMIT 1) = 'live')"
#define FACT_PAGE      FACT_FILTERS " AND f.seq > ?5 ORDER BY f.seq LIMIT ?6"
#define FACT_PAGE_BACK FACT_FILTERS " AND f.seq < ?5 ORDER BY f.seq DESC LIMIT ?6"

#define VERSION_COLUMNS                                                            \
    "SELECT version, parent, kind, created_ms, to_version, n_facts, live_facts,"   \
    " weights_hash, chain_hash, delta_hash, encoding, delta_bytes, editor_method," \
    " editor_hash, update_mode, modules_json, measures_json, pruned, keyframe,"    \
    " values_hash, basis FROM versions "

/* ?2: the version whose jobs they are */
#define OF_JOBS \
    "EXISTS (SELECT 1 FROM version_jobs v WHERE v.job = facts.job AND v.version = ?2)"

/* The words of the partial index facts_members. */
#define MEMBER "(f.state = 'live' OR f.pinned = 1)"

/* Facts that share a text with those of `texts (fact, prompt)`. */
#define PAIRS                                                              \
    "pairs (old, new) AS ("                                                \
    " SELECT o.seq, t.fact FROM texts t CROSS JOIN facts o"                \
    "  ON o.prompt = t.prompt"                                             \
    " UNION ALL SELECT p.fact, t.fact FROM texts t CROSS JOIN phrasings p" \
    "  ON p.prompt = t.prompt) "

/* Of a pair, a member and a fact that is taught: whether both can not be had. */
#define EXCLUDES(old, new)          \
    "(" #old ".pinned = 1 OR " #old \
    ".prompt = " #new ".prompt"     \
                      " OR ltrim(" #old ".target, ' ') <> ltrim(" #new ".target, ' '))"

const char *const mal_sql_texts[MAL_N_SQL] = {
    [MAL_SQL_BEGIN] = "BEGIN IMMEDIATE",
    [MAL_SQL_COMMIT] = "COMMIT",
    [MAL_SQL_ROLLBACK] = "ROLLBACK",

    [MAL_SQL_SET_META] = "INSERT INTO meta (key, value) VALUES (?1, ?2)"
                         " ON CONFLICT DO NOTHING",
    [MAL_SQL_GET_META] = "SELECT value FROM meta WHERE key = ?1",
    [MAL_SQL_INTEGRITY] = "PRAGMA integrity_check(1)",
    [MAL_SQL_FOREIGN_KEYS] = "PRAGMA foreign_key_check",

    /* ---- Jobs ---- */

    [MAL_SQL_ADD_JOB] =
        "INSERT INTO jobs (id, kind, state, created_ms, n_facts, to_version,"
        " note, request_json) VALUES (?1, ?2, 'queued', ?3, ?4, ?5, ?6, ?7)",
    [MAL_SQL_ADD_FACT] =
        "INSERT INTO facts (id, job, idx, state, prompt, target, fact_json)"
        " VALUES (?1, ?2, ?3, 'queued', ?4, ?5, ?6)",
    [MAL_SQL_ADD_PHRASINGS] =
        "INSERT OR IGNORE INTO phrasings (prompt, fact)"
        " SELECT rtrim(p.value, ' '), f.seq"
        " FROM facts f CROSS JOIN json_each(f.fact_json, '$.prompts') p"
        " WHERE f.job = ?1 AND instr(f.fact_json, '\"prompts\"')",
    [MAL_SQL_ADD_IDEMPOTENCY] =
        "INSERT INTO idempotency (key, body_hash, answer, created_ms)"
        " VALUES (?1, ?2, ?3, ?4)",
    [MAL_SQL_FIND_IDEMPOTENCY] =
        "SELECT body_hash, answer FROM idempotency WHERE key = ?1",
    [MAL_SQL_START_JOB] = "UPDATE jobs SET state = 'running', started_ms = ?2"
                          " WHERE id = ?1 AND state = 'queued'",
    [MAL_SQL_END_JOB] =
        "UPDATE jobs SET state = ?2, finished_ms = ?3, result_json = ?4, error_json = ?5,"
        " request_json = iif(kind = 'evaluation', NULL, request_json)"
        " WHERE id = ?1 AND state IN ('queued', 'running')",
    [MAL_SQL_END_FACTS] = "UPDATE facts SET state = ?2"
                          " WHERE job = (SELECT seq FROM jobs WHERE id = ?1)",
    [MAL_SQL_REQUEUE] = "UPDATE jobs SET state = 'queued', started_ms = NULL"
                        " WHERE state = 'running'",
    [MAL_SQL_REQUEUE_JOB] = "UPDATE jobs SET state = 'queued', started_ms = NULL"
                            " WHERE id = ?1 AND state = 'running'",
    [MAL_SQL_JOB_STATE] = "SELECT state FROM jobs WHERE id = ?1",
    [MAL_SQL_JOB_SEQ] = "SELECT seq FROM jobs WHERE id = ?1",
    [MAL_SQL_GET_JOB] = JOB_COLUMNS "WHERE id = ?1",
    [MAL_SQL_JOB_REQUEST] = "SELECT request_json FROM jobs WHERE id = ?1",
    [MAL_SQL_LIST_JOBS] = JOB_COLUMNS "WHERE TRUE" JOB_PAGE,
    [MAL_SQL_LIST_JOBS_OF_KIND] = JOB_COLUMNS "WHERE kind = ?1" JOB_PAGE,
    [MAL_SQL_LIST_JOBS_IN_STATE] = JOB_COLUMNS "WHERE state = ?2" JOB_PAGE,
    [MAL_SQL_QUEUED_JOBS] = JOB_COLUMNS "WHERE state = 'queued' ORDER BY seq",
    [MAL_SQL_LAST_JOB] = "SELECT max(seq) FROM jobs",
    [MAL_SQL_FIRST_OPEN_JOB] =
        "SELECT min(seq) FROM (SELECT min(seq) AS seq FROM jobs WHERE state = 'queued'"
        " UNION ALL SELECT min(seq) FROM jobs WHERE state = 'running')",
    /* ?1 after this seq, ?2 up to that one */
    [MAL_SQL_COUNT_JOBS] =
        "SELECT s.column1, (SELECT count(*) FROM jobs j WHERE j.state = s.column1"
        " AND j.seq > ?1 AND j.seq <= ?2) FROM (VALUES ('queued'), ('running'),"
        " ('applied'), ('done'), ('rejected'), ('failed'), ('cancelled')) s",

    /* ---- Audit ---- */

    [MAL_SQL_ADD_AUDIT] =
        "INSERT INTO audit (created_ms, who, role, origin, action, request_id, job,"
        " detail) SELECT ?1, ?2, ?3, ?4, ?5, ?6, seq, ?7 FROM jobs WHERE id = ?8",
    [MAL_SQL_LIST_AUDIT] = AUDIT_COLUMNS "WHERE TRUE" AUDIT_PAGE,
    [MAL_SQL_LIST_AUDIT_OF_WHO] = AUDIT_COLUMNS "WHERE a.who = ?1" AUDIT_PAGE,
    [MAL_SQL_LIST_AUDIT_OF_ACTION] = AUDIT_COLUMNS "WHERE a.action = ?2" AUDIT_PAGE,
    [MAL_SQL_LIST_AUDIT_OF_JOB] = AUDIT_COLUMNS "WHERE a.job = ?3" AUDIT_PAGE,

    /* ---- Facts ---- */

    [MAL_SQL_FACT_SEQ] = "SELECT seq FROM facts WHERE id = ?1",
    [MAL_SQL_GET_FACT] = FACT_COLUMNS "WHERE f.id = ?1",
    [MAL_SQL_GET_FACT_SEQ] = FACT_COLUMNS "WHERE f.seq = ?1",
    [MAL_SQL_MEMBERS] =
        FACT_COLUMNS "WHERE " MEMBER " AND f.seq > ?1 ORDER BY f.seq LIMIT ?2",
    [MAL_SQL_MEMBERS_AGAINST] =
        "WITH texts (fact, prompt) AS (SELECT seq, prompt FROM facts WHERE seq = ?1"
        " UNION ALL SELECT fact, prompt FROM phrasings WHERE fact = ?1), " PAIRS
            FACT_COLUMNS "WHERE f.seq IN (SELECT old FROM pairs) AND " MEMBER
        " AND EXISTS (SELECT 1 FROM facts new WHERE new.seq = ?1 AND " EXCLUDES(
            f, new) ") ORDER BY f.seq",
    [MAL_SQL_MEMBER_LIST] =
        "SELECT f.seq, f.pinned FROM facts f WHERE " MEMBER " ORDER BY f.seq",
    [MAL_SQL_LIST_FACTS] = FACT_COLUMNS "WHERE TRUE" FACT_PAGE,
    [MAL_SQL_LIST_FACTS_IN_STATE] = FACT_COLUMNS "WHERE f.state = ?1" FACT_PAGE,
    [MAL_SQL_LIST_FACTS_OF_PROMPT] =
        FACT_COLUMNS "WHERE f.prompt = rtrim(?3, ' ')" FACT_PAGE,
    [MAL_SQL_LIST_FACTS_OF_JOB] = FACT_COLUMNS "WHERE f.job = ?4" FACT_PAGE,
    [MAL_SQL_NEWEST_FACTS] = FACT_COLUMNS "WHERE TRUE" FACT_PAGE_BACK,
    [MAL_SQL_NEWEST_FACTS_IN_STATE] = FACT_COLUMNS "WHERE f.state = ?1" FACT_PAGE_BACK,
    [MAL_SQL_NEWEST_FACTS_OF_PROMPT] =
        FACT_COLUMNS "WHERE f.prompt = rtrim(?3, ' ')" FACT_PAGE_BACK,
    [MAL_SQL_NEWEST_FACTS_OF_JOB] = FACT_COLUMNS "WHERE f.job = ?4" FACT_PAGE_BACK,
    [MAL_SQL_COUNT_LIVE] = "SELECT count(*) FROM facts WHERE state = 'live'",

    /* ---- Versions ---- */

    [MAL_SQL_LAST_VERSION] = "SELECT max(version) FROM versions",
    [MAL_SQL_LIVE_FACTS] =
        "SELECT live_facts FROM versions ORDER BY version DESC LIMIT 1",
    [MAL_SQL_DELTA_BYTES] = "SELECT sum(delta_bytes) FROM versions WHERE pruned = 0",
    [MAL_SQL_GET_VERSION] = VERSION_COLUMNS "WHERE version = ?1",
    [MAL_SQL_LIST_VERSIONS] =
        VERSION_COLUMNS "WHERE version < ?1 ORDER BY version DESC LIMIT ?2",
    [MAL_SQL_VERSION_JOBS] = "SELECT j.id FROM version_jobs v CROSS JOIN jobs j"
                             " ON j.seq = v.job WHERE v.version = ?1 ORDER BY v.idx",

    /* ---- Publishing ---- */

    [MAL_SQL_HALF_STAGED] =
        "SELECT b.name FROM blobs b WHERE b.version = ?1 AND b.bytes <>"
        " (SELECT coalesce(sum(length(c.data)), 0) FROM blob_chunks c"
        "  WHERE c.blob = b.id) LIMIT 1",
    [MAL_SQL_VALUES_STAGED] =
        "SELECT EXISTS (SELECT 1 FROM fact_values WHERE version = ?1)",
    [MAL_SQL_APPLY_JOB] =
        "UPDATE jobs SET state = 'applied', version = ?2, finished_ms = ?3,"
        " started_ms = coalesce(started_ms, ?3), result_json = ?4"
        " WHERE id = ?1 AND state IN ('queued', 'running')",
    [MAL_SQL_ADD_VERSION_JOB] = "INSERT INTO version_jobs (version, idx, job)"
                                " SELECT ?1, ?2, seq FROM jobs WHERE id = ?3",
    [MAL_SQL_REJECT_FACT] =
        "UPDATE facts SET state = 'rejected' WHERE id = ?1 AND state = 'queued'"
        " AND " OF_JOBS,
    /* Run when the facts have followed: live now or before, or of this version's jobs. */
    [MAL_SQL_VERIFY_FACT] =
        "UPDATE facts SET verified_json = coalesce(?3, verified_json) WHERE id = ?1"
        " AND (state = 'live' OR " OF_JOBS " OR EXISTS (SELECT 1 FROM fact_states h"
        "      WHERE h.fact = facts.seq AND h.version = ?2))",
    [MAL_SQL_VERIFY_LIVE] =
        "UPDATE facts SET verified_json = ?2 WHERE id = ?1 AND state = 'live'",
    [MAL_SQL_RETRACT] = "INSERT INTO fact_states (fact, version, state, pinned)"
                        " SELECT seq, ?2, 'retracted', ?3 FROM facts"
                        " WHERE id = ?1 AND (state = 'live' OR (pinned = 1 AND ?3 = 0))",
    [MAL_SQL_FACT_STATE] = "SELECT state FROM facts WHERE id = ?1",
    /* Members that a fact of this batch excludes: live ones are superseded, retracted
       ones lose their keys. +state: by its index every job would read all that is
       queued. */
    [MAL_SQL_SUPERSEDE] =
        "WITH texts (fact, prompt) AS ("
        " SELECT f.seq, f.prompt FROM version_jobs v CROSS JOIN facts f ON f.job = v.job"
        "  WHERE v.version = ?1 AND +f.state = 'queued'"
        " UNION ALL SELECT f.seq, p.prompt FROM version_jobs v"
        "  CROSS JOIN facts f ON f.job = v.job CROSS JOIN phrasings p ON p.fact = f.seq"
        "  WHERE v.version = ?1 AND +f.state = 'queued'), " PAIRS
        "INSERT INTO fact_states (fact, version, state, by_fact)"
        " SELECT old.seq, ?1, iif(old.state = 'live', 'superseded', old.state),"
        " iif(old.state = 'live', max(new.seq), NULL) FROM pairs"
        " CROSS JOIN facts old ON old.seq = pairs.old"
        " CROSS JOIN facts new ON new.seq = pairs.new"
        " WHERE (old.state = 'live' OR old.pinned = 1) AND " EXCLUDES(
            old, new) " GROUP BY old.seq",
    /* Of several facts with one prompt the newest is live, as if each had come alone. */
    [MAL_SQL_TEACH] = "INSERT INTO fact_states (fact, version, state, by_fact)"
                      " SELECT seq, ?1, iif(seq = newest, 'live', 'superseded'),"
                      " nullif(newest, seq) FROM"
                      " (SELECT f.seq, max(f.seq) OVER (PARTITION BY f.prompt) AS newest"
                      "  FROM version_jobs v CROSS JOIN facts f ON f.job = v.job"
                      "  WHERE v.version = ?1 AND +f.state = 'queued')",
    /* Each fact ever taught gets the state it had in version ?2, rolled_back when it had
       none. */
    [MAL_SQL_RETURN] =
        "INSERT INTO fact_states (fact, version, state, by_fact, pinned)"
        " SELECT f.seq, ?1, coalesce(h.state, 'rolled_back'), h.by_fact,"
        " coalesce(h.pinned, 0) FROM facts f LEFT JOIN fact_states h ON h.fact = f.seq"
        " AND h.version = (SELECT max(version) FROM fact_states"
        "                  WHERE fact = f.seq AND version <= ?2)"
        " WHERE f.version IS NOT NULL"
        " AND (f.state <> coalesce(h.state, 'rolled_back')"
        "      OR f.superseded_by IS NOT h.by_fact"
        "      OR f.pinned <> coalesce(h.pinned, 0))",
    [MAL_SQL_FOLLOW] =
        "UPDATE facts SET state = h.state, superseded_by = h.by_fact,"
        " pinned = h.pinned, version = coalesce(facts.version, h.version) FROM fact_states h"
        " WHERE h.version = ?1 AND h.fact = facts.seq",
    [MAL_SQL_ADD_VERSION] =
        "INSERT INTO versions (version, parent, kind, created_ms, to_version, n_facts,"
        " live_facts, weights_hash, chain_hash, delta_hash, encoding, delta_bytes,"
        " editor_method, editor_hash, update_mode, modules_json, measures_json, pruned,"
        " keyframe, values_hash, basis) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10,"
        " ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21)",

    /* ---- Blobs ---- */

    [MAL_SQL_ADD_BLOB] = "INSERT INTO blobs (version, name, header_json, sha256, bytes)"
                         " VALUES (?1, ?2, ?3, ?4, ?5)",
    [MAL_SQL_ADD_CHUNK] = "INSERT INTO blob_chunks (blob, idx, data) VALUES (?1, ?2, ?3)",
    [MAL_SQL_UNSTAGE] = "DELETE FROM blobs WHERE id ="
                        " (SELECT min(id) FROM blobs WHERE version = ?1)",
    [MAL_SQL_SWEEP] = "DELETE FROM blobs WHERE version >"
                      " (SELECT coalesce(max(version), -1) FROM versions)",
    [MAL_SQL_LIST_BLOBS] = "SELECT name, header_json, sha256, bytes FROM blobs"
                           " WHERE version = ?1 ORDER BY name",
    [MAL_SQL_READ_CHUNKS] = "SELECT c.idx, c.data FROM blobs b CROSS JOIN blob_chunks c"
                            " ON c.blob = b.id WHERE b.version = ?1 AND b.name = ?2"
                            " ORDER BY c.idx",

    /* ---- Values of facts ---- */

    [MAL_SQL_ADD_VALUES] = "INSERT INTO fact_values (fact, version, sha256, data)"
                           " VALUES (?1, ?2, ?3, ?4)",
    [MAL_SQL_UNSTAGE_VALUES] =
        "DELETE FROM fact_values WHERE id IN"
        " (SELECT id FROM fact_values WHERE version = ?1 LIMIT ?2)",
    [MAL_SQL_UNSTAGE_FACT] = "DELETE FROM fact_values WHERE fact = ?1 AND version = ?2",
    [MAL_SQL_SWEEP_VALUES] = "DELETE FROM fact_values WHERE version >"
                             " (SELECT coalesce(max(version), -1) FROM versions)",
    [MAL_SQL_VALUES_OF_FACT] = "SELECT version, id FROM fact_values WHERE fact = ?1"
                               " ORDER BY version DESC",
    [MAL_SQL_READ_VALUES] = "SELECT sha256, data FROM fact_values WHERE id = ?1",
    [MAL_SQL_LIST_VALUES] =
        "SELECT v.fact, f.id, v.sha256, length(v.data) FROM fact_values v"
        " CROSS JOIN facts f ON f.seq = v.fact WHERE v.version = ?1 ORDER BY v.fact",
    [MAL_SQL_BYTES] =
        "SELECT (SELECT coalesce(sum(bytes), 0) FROM blobs WHERE version = ?1)"
        " + (SELECT coalesce(sum(length(data)), 0) FROM fact_values WHERE version = ?1)",

    /* ---- Events ---- */

    [MAL_SQL_EVENTS] = "SELECT id, kind, data_json FROM events WHERE id > ?1"
                       " ORDER BY id LIMIT ?2",
    [MAL_SQL_FIRST_EVENT] = "SELECT min(id) FROM events",
    [MAL_SQL_LAST_EVENT] = "SELECT max(id) FROM events",

    /* ---- Pruning below version ?1 ---- */

    [MAL_SQL_LINKS] = "SELECT parent, to_version, keyframe = 1 OR kind = 'consolidation'"
                      " FROM versions ORDER BY version",
    /* What stays: where the path of a version from ?1 on comes from below, which is that
       of ?1 and those of rollbacks, the values in force there of each member of the
       version. Who lives in versions that follow is a member of it or was taught later.
     */
    [MAL_SQL_PRUNE_VALUES] =
        "DELETE FROM fact_values WHERE version < ?1 AND id NOT IN ("
        " WITH RECURSIVE path (entry, version) AS ("
        "  SELECT version, coalesce(to_version, parent) FROM versions"
        "  WHERE version >= ?1 AND coalesce(to_version, parent) < ?1"
        "  AND kind <> 'consolidation'"
        "  UNION ALL SELECT p.entry, coalesce(v.to_version, v.parent)"
        "  FROM path p CROSS JOIN versions v ON v.version = p.version"
        "  WHERE v.parent IS NOT NULL AND v.kind <> 'consolidation')"
        " SELECT id FROM (SELECT x.id AS id, max(x.version)" /* the id of the maximum */
        "  FROM path p CROSS JOIN fact_values x ON x.version = p.version"
        "  WHERE (SELECT h.state = 'live' OR h.pinned = 1 FROM fact_states h"
        "   WHERE h.fact = x.fact AND h.version <= p.entry"
        "   ORDER BY h.version DESC LIMIT 1)"
        "  GROUP BY p.entry, x.fact))",
    [MAL_SQL_PRUNE_BLOBS] = "DELETE FROM blobs WHERE version >= 1 AND version < ?1",
    [MAL_SQL_PRUNE_VERSIONS] = "UPDATE versions SET pruned = 1"
                               " WHERE version >= 1 AND version < ?1 AND pruned = 0",
};
