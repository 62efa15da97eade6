/* store_jobs.c - jobs: accepted, started, ended, listed. */
#include "sql/store_impl.h"

#include <assert.h>
#include <stdint.h>

/* ---- Accepting ---- */

static bool insert_job(struct mal_store *store, const struct mal_job_row *job,
                       int64_t n_facts, int64_t *out_seq, struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_ADD_JOB);
    mal_bind_text(&q, job->id);
    mal_bind_text(&q, mal_job_kind_name(job->kind));
    mal_bind_int(&q, job->created_ms);
    mal_bind_int(&q, n_facts);
    mal_bind_opt(&q, job->to_version, -1);
    mal_bind_text(&q, job->note);
    mal_bind_text(&q, job->request_json);
    if (!mal_query_run(&q, NULL, err)) return mal_fail_wrap(err, "job '%s'", job->id);
    *out_seq = sqlite3_last_insert_rowid(store->db);
    return true;
}

static bool insert_facts(struct mal_store *store, int64_t job,
                         const struct mal_fact_source *facts, struct mal_error *err) {
    for (size_t i = 0; facts && i < facts->n; i++) {
        struct mal_query q;
        struct mal_fact_row fact = {0};
        if (!facts->get(facts->arg, store, i, &fact, err)) return false;
        mal_query_open(&q, store, MAL_SQL_ADD_FACT);
        mal_bind_text(&q, fact.id);
        mal_bind_int(&q, job);
        mal_bind_int(&q, (int64_t)i);
        mal_bind_text(&q, fact.prompt);
        mal_bind_text(&q, fact.target);
        mal_bind_text(&q, fact.fact_json);
        if (!mal_query_run(&q, NULL, err)) {
            return mal_fail_wrap(err, "fact %zu, '%s'", i, fact.id);
        }
    }
    return true;
}

static bool insert_phrasings(struct mal_store *store, int64_t job,
                             struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_ADD_PHRASINGS);
    mal_bind_int(&q, job);
    return mal_query_run(&q, NULL, err) || mal_fail_wrap(err, "phrasings");
}

static bool insert_idempotency(struct mal_store *store, const char *key,
                               const char *body_hash, const char *answer, int64_t now_ms,
                               struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_ADD_IDEMPOTENCY);
    mal_bind_text(&q, key);
    mal_bind_text(&q, body_hash);
    mal_bind_text(&q, answer);
    mal_bind_int(&q, now_ms);
    return mal_query_run(&q, NULL, err) ||
           mal_fail_wrap(err, "idempotency key '%.100s'", key);
}

bool mal_store_add_job(struct mal_store *store, const struct mal_job_row *job,
                       const struct mal_fact_source *facts, const char *idempotency_key,
                       const char *body_hash, const char *answer_json,
                       const struct mal_audit_row *audit, struct mal_error *err) {
    int64_t seq = 0, n_facts = facts ? (int64_t)facts->n : job->n_facts;
    if (!mal_tx_begin(store, err)) return false;
    bool done =
        insert_job(store, job, n_facts, &seq, err) &&
        insert_facts(store, seq, facts, err) &&
        (!facts || insert_phrasings(store, seq, err)) &&
        (!idempotency_key || insert_idempotency(store, idempotency_key, body_hash,
                                                answer_json, job->created_ms, err)) &&
        mal_store_add_audit(store, audit, job->id, job->created_ms, err);
    return mal_tx_end(store, done, err);
}

bool mal_store_find_idempotency(struct mal_store *store, const char *key,
                                char **body_hash, char **answer, struct mal_error *err) {
    struct mal_query q;
    bool row = false;
    char *found[2] = {0};
    mal_query_open(&q, store, MAL_SQL_FIND_IDEMPOTENCY);
    mal_bind_text(&q, key);
    bool done = mal_query_next(&q, &row, err);
    for (int i = 0; done && row && i < 2; i++) {
        done = mal_string_rows.take(&q, &found[i], err);
    }
    mal_query_close(&q);
    if (!done) {
        for (int i = 0; i < 2; i++)
            mal_string_rows.finish(&found[i]);
        return false;
    }
    *body_hash = found[0];
    *answer = found[1];
    return true;
}

/* ---- Changes of state ---- */

bool mal_store_job_conflict(struct mal_store *store, const char *id,
                            struct mal_error *err) {
    struct mal_query q;
    bool row = false;
    mal_query_open(&q, store, MAL_SQL_JOB_STATE);
    mal_bind_text(&q, id);
    if (mal_query_next(&q, &row, err)) {
        const char *state = row ? (const char *)sqlite3_column_text(q.stmt, 0) : NULL;
        if (row) {
            mal_fail(err, MAL_CONFLICT, "job '%s' is %s", id,
                     state ? state : "in no state");
        } else {
            mal_fail(err, MAL_NOT_FOUND, "there is no job '%s'", id);
        }
    }
    mal_query_close(&q);
    return false;
}

static bool start_job(struct mal_store *store, const char *id, int64_t now_ms,
                      struct mal_error *err) {
    struct mal_query q;
    int64_t n;
    mal_query_open(&q, store, MAL_SQL_START_JOB);
    mal_bind_text(&q, id);
    mal_bind_int(&q, now_ms);
    if (!mal_query_run(&q, &n, err)) return false;
    return n == 1 || mal_store_job_conflict(store, id, err);
}

bool mal_store_start_jobs(struct mal_store *store, const char *const *ids, size_t n,
                          int64_t now_ms, struct mal_error *err) {
    if (!mal_tx_begin(store, err)) return false;
    bool done = true;
    for (size_t i = 0; done && i < n; i++)
        done = start_job(store, ids[i], now_ms, err);
    return mal_tx_end(store, done, err);
}

static bool requeue_job(struct mal_store *store, const char *id, struct mal_error *err) {
    struct mal_query q;
    int64_t n;
    mal_query_open(&q, store, MAL_SQL_REQUEUE_JOB);
    mal_bind_text(&q, id);
    if (!mal_query_run(&q, &n, err)) return false;
    return n == 1 || mal_store_job_conflict(store, id, err);
}

bool mal_store_requeue_jobs(struct mal_store *store, const char *const *ids, size_t n,
                            struct mal_error *err) {
    if (!mal_tx_begin(store, err)) return false;
    bool done = true;
    for (size_t i = 0; done && i < n; i++)
        done = requeue_job(store, ids[i], err);
    return mal_tx_end(store, done, err);
}

struct ending {
    enum mal_job_state state;
    int64_t now_ms;
    const char *result_json, *error_json;
};

static bool end_job(struct mal_store *store, const char *id, const struct ending *ending,
                    struct mal_error *err) {
    struct mal_query q;
    int64_t n;
    mal_query_open(&q, store, MAL_SQL_END_JOB);
    mal_bind_text(&q, id);
    mal_bind_text(&q, mal_job_state_name(ending->state));
    mal_bind_int(&q, ending->now_ms);
    mal_bind_text(&q, ending->result_json);
    mal_bind_text(&q, ending->error_json);
    if (!mal_query_run(&q, &n, err)) return false;
    if (n != 1) return mal_store_job_conflict(store, id, err);
    if (ending->state == MAL_JOB_DONE) return true;

    bool failed = ending->state == MAL_JOB_FAILED;
    mal_query_open(&q, store, MAL_SQL_END_FACTS);
    mal_bind_text(&q, id);
    mal_bind_text(&q, mal_fact_state_name(failed ? MAL_FACT_FAILED : MAL_FACT_REJECTED));
    return mal_query_run(&q, NULL, err);
}

bool mal_store_end_jobs(struct mal_store *store, const char *const *ids, size_t n,
                        enum mal_job_state state, int64_t now_ms, const char *result_json,
                        const char *error_json, struct mal_error *err) {
    assert(mal_job_state_ended(state) && state != MAL_JOB_APPLIED &&
           state != MAL_JOB_CANCELLED);
    struct ending ending = {state, now_ms, result_json, error_json};
    if (!mal_tx_begin(store, err)) return false;
    bool done = true;
    for (size_t i = 0; done && i < n; i++)
        done = end_job(store, ids[i], &ending, err);
    return mal_tx_end(store, done, err);
}

bool mal_store_cancel_job(struct mal_store *store, const char *id, int64_t now_ms,
                          const struct mal_audit_row *audit, struct mal_error *err) {
    struct ending ending = {MAL_JOB_CANCELLED, now_ms, NULL, NULL};
    if (!mal_tx_begin(store, err)) return false;
    bool done = end_job(store, id, &ending, err) &&
                mal_store_add_audit(store, audit, id, now_ms, err);
    return mal_tx_end(store, done, err);
}

bool mal_store_requeue_running(struct mal_store *store, int64_t *out_n,
                               struct mal_error *err) {
    assert(!store->reader);
    struct mal_query q;
    if (!mal_tx_begin(store, err)) return false;
    mal_query_open(&q, store, MAL_SQL_REQUEUE);
    bool done = mal_query_run(&q, out_n, err);
    return mal_tx_end(store, done, err);
}

/* ---- Reading ---- */

bool mal_store_get_job(struct mal_store *store, const char *id, struct mal_job_row *out,
                       struct mal_error *err) {
    struct mal_query q;
    bool found = false;
    mal_query_open(&q, store, MAL_SQL_GET_JOB);
    mal_bind_text(&q, id);
    if (!mal_query_row(&q, &mal_job_rows, out, &found, err)) return false;
    return found || mal_fail(err, MAL_NOT_FOUND, "there is no job '%s'", id);
}

bool mal_store_job_request(struct mal_store *store, const char *id, char **out,
                           struct mal_error *err) {
    struct mal_query q;
    bool found = false;
    char *text = NULL;
    mal_query_open(&q, store, MAL_SQL_JOB_REQUEST);
    mal_bind_text(&q, id);
    bool done = mal_query_next(&q, &found, err);
    if (done && found) {
        text = mal_take_opt_text(&q);
        done = mal_query_taken(&q, err);
    }
    mal_query_close(&q);
    if (!done) return false;
    *out = text;
    return found || mal_fail(err, MAL_NOT_FOUND, "there is no job '%s'", id);
}

bool mal_store_list_jobs(struct mal_store *store, const struct mal_job_query *query,
                         struct mal_job_row **out, size_t *out_n, bool *has_more,
                         struct mal_error *err) {
    const char *kind =
        query->kind < 0 ? NULL : mal_job_kind_name((enum mal_job_kind)query->kind);
    const char *state =
        query->state < 0 ? NULL : mal_job_state_name((enum mal_job_state)query->state);
    struct mal_query q;
    int64_t before = INT64_MAX;
    if (query->after) {
        mal_query_open(&q, store, MAL_SQL_JOB_SEQ);
        mal_bind_text(&q, query->after);
        if (!mal_query_value(&q, -1, &before, err)) return false;
        if (before < 0) {
            return mal_fail(err, MAL_NOT_FOUND, "there is no job '%s'", query->after);
        }
    }
    mal_query_open(&q, store,
                   state  ? MAL_SQL_LIST_JOBS_IN_STATE
                   : kind ? MAL_SQL_LIST_JOBS_OF_KIND
                          : MAL_SQL_LIST_JOBS);
    mal_bind_text(&q, kind);
    mal_bind_text(&q, state);
    mal_bind_int(&q, before);
    mal_bind_int(&q, mal_page_limit(query->limit));
    void *rows;
    if (!mal_query_rows(&q, &mal_job_rows, query->limit, &rows, out_n, has_more, err)) {
        return false;
    }
    *out = rows;
    return true;
}

bool mal_store_queued_jobs(struct mal_store *store, struct mal_job_row **out,
                           size_t *out_n, struct mal_error *err) {
    struct mal_query q;
    void *rows;
    mal_query_open(&q, store, MAL_SQL_QUEUED_JOBS);
    if (!mal_query_rows(&q, &mal_job_rows, SIZE_MAX, &rows, out_n, NULL, err))
        return false;
    *out = rows;
    return true;
}
