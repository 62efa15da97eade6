/* store_counts.c - how many there are, cheap enough to be asked all the time.
 *
 * A job that has ended keeps its state, so those before the first that has not are
 * counted once by a handle; the rest is read from the index of states. */
#include "sql/store_impl.h"

/* In one statement, so that a job that changes its state meanwhile is counted once. */
static bool add_jobs(struct mal_store *store, int64_t after, int64_t to,
                     int64_t counts[MAL_N_JOB_STATES], struct mal_error *err) {
    struct mal_query q;
    bool row = false, done;
    mal_query_open(&q, store, MAL_SQL_COUNT_JOBS);
    mal_bind_int(&q, after);
    mal_bind_int(&q, to);
    while ((done = mal_query_next(&q, &row, err)) && row) {
        int state = mal_take_word(&q, mal_job_state_from_name);
        counts[state] += mal_take_int(&q);
    }
    done = done && mal_query_taken(&q, err);
    mal_query_close(&q);
    return done;
}

/* The last job is looked up first: one that is added after that is not among them. */
static bool settle(struct mal_store *store, struct mal_error *err) {
    int64_t counts[MAL_N_JOB_STATES] = {0}, last, open;
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_LAST_JOB);
    if (!mal_query_value(&q, 0, &last, err)) return false;
    mal_query_open(&q, store, MAL_SQL_FIRST_OPEN_JOB);
    if (!mal_query_value(&q, INT64_MAX, &open, err)) return false;
    if (open <= last) last = open - 1;
    if (last <= store->settled) return true;
    if (!add_jobs(store, store->settled, last, counts, err)) return false;
    for (int i = 0; i < MAL_N_JOB_STATES; i++)
        store->settled_jobs[i] += counts[i];
    store->settled = last;
    return true;
}

bool mal_store_counts(struct mal_store *store, struct mal_store_counts *out,
                      struct mal_error *err) {
    struct mal_store_counts counts = {0};
    struct mal_query q;
    int64_t last;
    if (!settle(store, err)) return false;
    for (int i = 0; i < MAL_N_JOB_STATES; i++)
        counts.jobs[i] = store->settled_jobs[i];
    if (!add_jobs(store, store->settled, INT64_MAX, counts.jobs, err)) return false;
    mal_query_open(&q, store, MAL_SQL_LIVE_FACTS);
    if (!mal_query_value(&q, 0, &counts.live_facts, err)) return false;
    if (!mal_store_last_version(store, &last, err)) return false;
    counts.versions = last + 1;
    *out = counts;
    return true;
}

bool mal_store_delta_bytes(struct mal_store *store, int64_t *out, struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_DELTA_BYTES);
    return mal_query_value(&q, 0, out, err);
}
