/* store_publish.c - the transaction that turns a batch into a version.
 *
 * First the jobs and what becomes of each fact (rows of fact_states), then the facts
 * follow those rows, and last the version's row, which counts the live facts. Any failure
 * leaves all as it was, so a batch is applied once or not at all. */
#include "sql/store_impl.h"

#include <assert.h>
#include <inttypes.h>

static bool check_number(struct mal_store *store, const struct mal_version_row *row,
                         struct mal_error *err) {
    int64_t last;
    if (!mal_store_last_version(store, &last, err)) return false;
    if (row->version != last + 1) {
        return mal_fail(err, MAL_CONFLICT, "the next version is %" PRId64, last + 1);
    }
    if (row->parent != last) {
        return mal_fail(err, MAL_CONFLICT, "its parent must be %" PRId64 ", not %" PRId64,
                        last, row->parent);
    }
    if (row->to_version > last) {
        return mal_fail(err, MAL_INVALID, "there is no version %" PRId64 " to return to",
                        row->to_version);
    }
    return true;
}

static bool check_staged(struct mal_store *store, int64_t version,
                         struct mal_error *err) {
    struct mal_query q;
    bool found = false;
    char *name = NULL;
    mal_query_open(&q, store, MAL_SQL_HALF_STAGED);
    mal_bind_int(&q, version);
    if (!mal_query_row(&q, &mal_string_rows, &name, &found, err)) return false;
    if (found) mal_fail(err, MAL_CONFLICT, "blob '%s' is staged in part only", name);
    mal_string_rows.finish(&name);
    return !found;
}

static const char *or_empty(const char *text) {
    return text ? text : "";
}

static bool check_values(struct mal_store *store, const struct mal_version_row *row,
                         struct mal_error *err) {
    struct mal_query q;
    int64_t staged;
    mal_query_open(&q, store, MAL_SQL_VALUES_STAGED);
    mal_bind_int(&q, row->version);
    if (!mal_query_value(&q, 0, &staged, err)) return false;
    if (staged && row->to_version >= 0) {
        return mal_fail(err, MAL_INVALID, "a rollback has no values of its own");
    }
    bool hashed = or_empty(row->values_hash)[0] != '\0';
    return hashed == (staged != 0) ||
           mal_fail(err, MAL_CONFLICT, "values of facts are %s",
                    hashed ? "hashed but not staged" : "staged without their hash");
}

static bool apply_job(struct mal_store *store, const struct mal_publish *publish,
                      size_t i, struct mal_error *err) {
    struct mal_query q;
    int64_t n;
    mal_query_open(&q, store, MAL_SQL_APPLY_JOB);
    mal_bind_text(&q, publish->jobs[i]);
    mal_bind_int(&q, publish->row->version);
    mal_bind_int(&q, publish->now_ms);
    mal_bind_text(&q, publish->job_results ? publish->job_results[i] : NULL);
    if (!mal_query_run(&q, &n, err)) return false;
    if (n != 1) return mal_store_job_conflict(store, publish->jobs[i], err);

    mal_query_open(&q, store, MAL_SQL_ADD_VERSION_JOB);
    mal_bind_int(&q, publish->row->version);
    mal_bind_int(&q, (int64_t)i);
    mal_bind_text(&q, publish->jobs[i]);
    return mal_query_run(&q, NULL, err);
}

static bool verify_fact(struct mal_store *store, int64_t version,
                        const struct mal_fact_result *fact, struct mal_error *err) {
    struct mal_query q;
    int64_t n;
    mal_query_open(&q, store, MAL_SQL_VERIFY_FACT);
    mal_bind_text(&q, fact->id);
    mal_bind_int(&q, version);
    mal_bind_text(&q, fact->verified_json);
    if (!mal_query_run(&q, &n, err)) return false;
    return n == 1 ||
           mal_fail(err, MAL_CONFLICT,
                    "fact '%s' is neither live nor of the jobs published", fact->id);
}

static bool reject_fact(struct mal_store *store, int64_t version, const char *id,
                        struct mal_error *err) {
    struct mal_query q;
    int64_t n;
    mal_query_open(&q, store, MAL_SQL_REJECT_FACT);
    mal_bind_text(&q, id);
    mal_bind_int(&q, version);
    if (!mal_query_run(&q, &n, err)) return false;
    return n == 1 || mal_fail(err, MAL_CONFLICT,
                              "fact '%s' is not a queued one of the jobs published", id);
}

bool mal_fact_retractable(const struct mal_fact_row *row, bool pin) {
    return row->state == MAL_FACT_LIVE || (row->pinned && !pin);
}

/* Why a fact could not be retracted; always false. */
static bool not_retractable(struct mal_store *store, const char *id,
                            struct mal_error *err) {
    struct mal_query q;
    bool found = false;
    char *state = NULL;
    mal_query_open(&q, store, MAL_SQL_FACT_STATE);
    mal_bind_text(&q, id);
    if (!mal_query_row(&q, &mal_string_rows, &state, &found, err)) return false;
    if (found) {
        mal_fail(err, MAL_CONFLICT, "fact '%s' is %s", id, state);
    } else {
        mal_fail(err, MAL_NOT_FOUND, "there is no fact '%s'", id);
    }
    mal_string_rows.finish(&state);
    return false;
}

static bool retract_fact(struct mal_store *store, int64_t version,
                         const struct mal_retraction *retraction, struct mal_error *err) {
    struct mal_query q;
    int64_t n;
    mal_query_open(&q, store, MAL_SQL_RETRACT);
    mal_bind_text(&q, retraction->id);
    mal_bind_int(&q, version);
    mal_bind_int(&q, retraction->pin);
    if (!mal_query_run(&q, &n, err)) {
        return mal_fail_wrap(err, "fact '%s'", retraction->id);
    }
    return n == 1 || not_retractable(store, retraction->id, err);
}

/* Runs a statement whose parameters are the version and, unless it is -1, another one. */
static bool run_for(struct mal_store *store, enum mal_sql sql, int64_t version,
                    int64_t other, struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, sql);
    mal_bind_int(&q, version);
    if (other >= 0) mal_bind_int(&q, other);
    return mal_query_run(&q, NULL, err);
}

static bool change_facts(struct mal_store *store, const struct mal_publish *publish,
                         struct mal_error *err) {
    const struct mal_version_row *row = publish->row;
    for (size_t i = 0; i < publish->n_rejected; i++) {
        if (!reject_fact(store, row->version, publish->rejected[i], err)) return false;
    }
    if (!run_for(store, MAL_SQL_SUPERSEDE, row->version, -1, err)) return false;
    if (!run_for(store, MAL_SQL_TEACH, row->version, -1, err)) return false;
    if (row->to_version >= 0 &&
        !run_for(store, MAL_SQL_RETURN, row->version, row->to_version, err)) {
        return false;
    }
    for (size_t i = 0; i < publish->n_retracted; i++) {
        if (!retract_fact(store, row->version, &publish->retracted[i], err)) return false;
    }
    return run_for(store, MAL_SQL_FOLLOW, row->version, -1, err);
}

static bool insert_version(struct mal_store *store, const struct mal_version_row *row,
                           int64_t live_facts, struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_ADD_VERSION);
    mal_bind_int(&q, row->version);
    mal_bind_opt(&q, row->parent, -1);
    mal_bind_text(&q, mal_version_kind_name(row->kind));
    mal_bind_int(&q, row->created_ms);
    mal_bind_opt(&q, row->to_version, -1);
    mal_bind_int(&q, row->n_facts);
    mal_bind_int(&q, live_facts);
    mal_bind_text(&q, row->weights_hash);
    mal_bind_text(&q, row->chain_hash);
    mal_bind_text(&q, row->delta_hash);
    mal_bind_text(&q, row->encoding);
    mal_bind_int(&q, row->delta_bytes);
    mal_bind_text(&q, or_empty(row->editor_method));
    mal_bind_text(&q, or_empty(row->editor_hash));
    mal_bind_text(&q, or_empty(row->update));
    mal_bind_text(&q, row->modules_json ? row->modules_json : "[]");
    mal_bind_text(&q, row->measures_json ? row->measures_json : "{}");
    mal_bind_int(&q, row->pruned);
    mal_bind_int(&q, row->keyframe);
    mal_bind_text(&q, or_empty(row->values_hash));
    mal_bind_text(&q, or_empty(row->basis));
    return mal_query_run(&q, NULL, err);
}

static bool publish_all(struct mal_store *store, const struct mal_publish *publish,
                        int64_t *out_live, struct mal_error *err) {
    const struct mal_version_row *row = publish->row;
    if (!check_number(store, row, err)) return false;
    if (!check_staged(store, row->version, err)) return false;
    if (!check_values(store, row, err)) return false;
    for (size_t i = 0; i < publish->n_jobs; i++) {
        if (!apply_job(store, publish, i, err)) return false;
    }
    if (!change_facts(store, publish, err)) return false;
    for (size_t i = 0; i < publish->n_facts; i++) {
        if (!verify_fact(store, row->version, &publish->facts[i], err)) return false;
    }

    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_COUNT_LIVE);
    if (!mal_query_value(&q, 0, out_live, err)) return false;
    return insert_version(store, row, *out_live, err);
}

bool mal_store_publish(struct mal_store *store, const struct mal_publish *publish,
                       struct mal_error *err) {
    struct mal_version_row *row = publish->row;
    assert(row->weights_hash && row->chain_hash && row->delta_hash && row->encoding);
    int64_t live = 0;
    if (!mal_tx_begin(store, err)) return false;
    store->log.growing = false; /* its commit is the first after which it is copied */
    if (!mal_tx_end(store, publish_all(store, publish, &live, err), err)) {
        return mal_fail_wrap(err, "version %" PRId64, row->version);
    }
    row->live_facts = live;
    return true;
}
