/* store_facts.c - facts: one, those of a job, those live in a version, the members of the
 * joint system. */
#include "sql/store_impl.h"

#include <inttypes.h>
#include <stdint.h>

bool mal_store_get_fact(struct mal_store *store, const char *id, struct mal_fact_row *out,
                        struct mal_error *err) {
    struct mal_query q;
    bool found = false;
    mal_query_open(&q, store, MAL_SQL_GET_FACT);
    mal_bind_text(&q, id);
    if (!mal_query_row(&q, &mal_fact_rows, out, &found, err)) return false;
    return found || mal_fail(err, MAL_NOT_FOUND, "there is no fact '%s'", id);
}

bool mal_store_get_fact_seq(struct mal_store *store, int64_t seq,
                            struct mal_fact_row *out, struct mal_error *err) {
    struct mal_query q;
    bool found = false;
    mal_query_open(&q, store, MAL_SQL_GET_FACT_SEQ);
    mal_bind_int(&q, seq);
    if (!mal_query_row(&q, &mal_fact_rows, out, &found, err)) return false;
    return found || mal_fail(err, MAL_NOT_FOUND, "there is no fact %" PRId64, seq);
}

/* ---- What they measured ---- */

static bool note_all(struct mal_store *store, int64_t version,
                     const struct mal_fact_result *results, size_t n,
                     struct mal_error *err) {
    int64_t last;
    if (!mal_store_last_version(store, &last, err)) return false;
    if (version != last)
        return mal_fail(err, MAL_CONFLICT,
                        "version %" PRId64 " was measured, %" PRId64 " is live", version,
                        last);
    for (size_t i = 0; i < n; i++) {
        struct mal_query q;
        int64_t changed;
        mal_query_open(&q, store, MAL_SQL_VERIFY_LIVE);
        mal_bind_text(&q, results[i].id);
        mal_bind_text(&q, results[i].verified_json);
        if (!mal_query_run(&q, &changed, err)) return false;
        if (changed != 1)
            return mal_fail(err, MAL_CONFLICT, "fact '%s' is not live", results[i].id);
    }
    return true;
}

bool mal_store_note_results(struct mal_store *store, int64_t version,
                            const struct mal_fact_result *results, size_t n,
                            struct mal_error *err) {
    return mal_tx_begin(store, err) &&
           mal_tx_end(store, note_all(store, version, results, n, err), err);
}

/* ---- Lists ---- */

/* The position of what is called `id`; `absent` when id is NULL. */
static bool find_seq(struct mal_store *store, enum mal_sql sql, const char *what,
                     const char *id, int64_t absent, int64_t *out,
                     struct mal_error *err) {
    *out = absent;
    if (!id) return true;
    struct mal_query q;
    mal_query_open(&q, store, sql);
    mal_bind_text(&q, id);
    if (!mal_query_value(&q, -1, out, err)) return false;
    return *out >= 0 || mal_fail(err, MAL_NOT_FOUND, "there is no %s '%s'", what, id);
}

static bool check_version(struct mal_store *store, int64_t version,
                          struct mal_error *err) {
    int64_t last;
    if (version < 0) return true;
    if (!mal_store_last_version(store, &last, err)) return false;
    return version <= last ||
           mal_fail(err, MAL_NOT_FOUND, "there is no version %" PRId64, version);
}

bool mal_store_list_facts(struct mal_store *store, const struct mal_fact_query *query,
                          struct mal_fact_row **out, size_t *out_n, bool *has_more,
                          struct mal_error *err) {
    const char *state =
        query->state < 0 ? NULL : mal_fact_state_name((enum mal_fact_state)query->state);

    static const enum mal_sql lists[][2] = {
        {MAL_SQL_LIST_FACTS_OF_JOB, MAL_SQL_NEWEST_FACTS_OF_JOB},
        {MAL_SQL_LIST_FACTS_OF_PROMPT, MAL_SQL_NEWEST_FACTS_OF_PROMPT},
        {MAL_SQL_LIST_FACTS_IN_STATE, MAL_SQL_NEWEST_FACTS_IN_STATE},
        {MAL_SQL_LIST_FACTS, MAL_SQL_NEWEST_FACTS}};

    int index = query->job ? 0 : query->prompt ? 1 : state ? 2 : 3;
    int64_t after, job, from = query->newest_first ? INT64_MAX : 0;
    if (!find_seq(store, MAL_SQL_FACT_SEQ, "fact", query->after, from, &after, err) ||
        !find_seq(store, MAL_SQL_JOB_SEQ, "job", query->job, -1, &job, err) ||
        !check_version(store, query->version, err)) {
        return false;
    }
    struct mal_query q;
    mal_query_open(&q, store, lists[index][query->newest_first]);
    mal_bind_text(&q, state);
    mal_bind_opt(&q, query->version, -1);
    mal_bind_text(&q, query->prompt);
    mal_bind_opt(&q, job, -1);
    mal_bind_int(&q, after);
    mal_bind_int(&q, mal_page_limit(query->limit));
    mal_bind_text(&q, query->text);
    void *rows;
    if (!mal_query_rows(&q, &mal_fact_rows, query->limit, &rows, out_n, has_more, err)) {
        return false;
    }
    *out = rows;
    return true;
}

bool mal_store_job_facts(struct mal_store *store, const char *job,
                         struct mal_fact_row **out, size_t *out_n,
                         struct mal_error *err) {
    struct mal_fact_query query = {
        .state = -1, .version = -1, .job = job, .limit = SIZE_MAX};
    return mal_store_list_facts(store, &query, out, out_n, NULL, err);
}

/* ---- Members ---- */

bool mal_store_members(struct mal_store *store, int64_t after_seq, size_t limit,
                       struct mal_fact_row **out, size_t *out_n, struct mal_error *err) {
    struct mal_query q;
    void *rows;
    mal_query_open(&q, store, MAL_SQL_MEMBERS);
    mal_bind_int(&q, after_seq);
    mal_bind_int(&q, mal_page_limit(limit));
    if (!mal_query_rows(&q, &mal_fact_rows, limit, &rows, out_n, NULL, err)) return false;
    *out = rows;
    return true;
}

bool mal_store_members_against(struct mal_store *store, int64_t seq,
                               struct mal_fact_row **out, size_t *out_n,
                               struct mal_error *err) {
    struct mal_query q;
    void *rows;
    mal_query_open(&q, store, MAL_SQL_MEMBERS_AGAINST);
    mal_bind_int(&q, seq);
    if (!mal_query_rows(&q, &mal_fact_rows, SIZE_MAX, &rows, out_n, NULL, err)) {
        return false;
    }
    *out = rows;
    return true;
}

bool mal_store_member_list(struct mal_store *store, struct mal_member **out,
                           size_t *out_n, struct mal_error *err) {
    struct mal_query q;
    void *rows;
    mal_query_open(&q, store, MAL_SQL_MEMBER_LIST);
    if (!mal_query_rows(&q, &mal_member_rows, SIZE_MAX, &rows, out_n, NULL, err)) {
        return false;
    }
    *out = rows;
    return true;
}
