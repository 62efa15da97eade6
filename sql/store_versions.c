/* store_versions.c - versions as they were published. */
#include "sql/store_impl.h"

#include <inttypes.h>

bool mal_store_data_version(struct mal_store *store, int64_t *out,
                            struct mal_error *err) {
    return mal_store_ask(store, "PRAGMA data_version", out, err);
}

bool mal_store_last_version(struct mal_store *store, int64_t *out,
                            struct mal_error *err) {
    struct mal_query q;
    mal_query_open(&q, store, MAL_SQL_LAST_VERSION);
    return mal_query_value(&q, -1, out, err);
}

bool mal_store_get_version(struct mal_store *store, int64_t version,
                           struct mal_version_row *out, struct mal_error *err) {
    struct mal_query q;
    bool found = false;
    mal_query_open(&q, store, MAL_SQL_GET_VERSION);
    mal_bind_int(&q, version);
    if (!mal_query_row(&q, &mal_version_rows, out, &found, err)) return false;
    return found || mal_fail(err, MAL_NOT_FOUND, "there is no version %" PRId64, version);
}

bool mal_store_list_versions(struct mal_store *store, int64_t after, size_t limit,
                             struct mal_version_row **out, size_t *out_n, bool *has_more,
                             struct mal_error *err) {
    struct mal_query q;
    void *rows;
    mal_query_open(&q, store, MAL_SQL_LIST_VERSIONS);
    mal_bind_int(&q, after < 0 ? INT64_MAX : after);
    mal_bind_int(&q, mal_page_limit(limit));
    if (!mal_query_rows(&q, &mal_version_rows, limit, &rows, out_n, has_more, err)) {
        return false;
    }
    *out = rows;
    return true;
}

bool mal_store_version_jobs(struct mal_store *store, int64_t version, char ***out,
                            size_t *out_n, struct mal_error *err) {
    struct mal_query q;
    void *rows;
    mal_query_open(&q, store, MAL_SQL_VERSION_JOBS);
    mal_bind_int(&q, version);
    if (!mal_query_rows(&q, &mal_string_rows, SIZE_MAX, &rows, out_n, NULL, err))
        return false;
    *out = rows;
    return true;
}
