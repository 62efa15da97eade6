/* store_prune.c - giving up the weights of old versions.
 *
 * A version is replayed from the last one on the way to it, a rollback too, that has a
 * keyframe or is a consolidation, so all versions from there on keep their blobs. Rows of
 * versions and the history of facts stay for good. */
#include "sql/store_impl.h"

#include <inttypes.h>
#include <stdint.h>

#include "core/alloc.h"

struct link {
    int64_t parent, to_version; /* -1: none */
    bool starts;                /* a replay may start with it */
};

static bool take_link(struct mal_query *q, void *out, struct mal_error *err) {
    struct link *link = out;
    link->parent = mal_take_opt(q, -1);
    link->to_version = mal_take_opt(q, -1);
    link->starts = mal_take_int(q) != 0;
    return mal_query_taken(q, err);
}

static void finish_link(void *row) {}

static const struct mal_row_type link_rows = {sizeof(struct link), take_link,
                                              finish_link};

/* The oldest version whose blobs a replay of each version reads, INT64_MAX where it reads
 * none. *out owned. */
static bool find_needs(struct mal_store *store, int64_t **out, size_t *out_n,
                       struct mal_error *err) {
    struct mal_query q;
    void *rows;
    size_t n;
    mal_query_open(&q, store, MAL_SQL_LINKS);
    if (!mal_query_rows(&q, &link_rows, SIZE_MAX, &rows, &n, NULL, err)) return false;
    const struct link *links = rows;
    int64_t *needs = mal_calloc(n + 1, sizeof *needs);
    if (!needs) {
        mal_free(rows);
        return mal_fail(err, MAL_NO_MEMORY, "%zu versions", n);
    }
    for (size_t v = 0; v < n; v++) {
        const struct link *link = &links[v];
        int64_t before = link->to_version >= 0 ? link->to_version : link->parent;
        int64_t need = before >= 0 && before < (int64_t)v ? needs[before] : INT64_MAX;
        bool stored = v > 0 && link->to_version < 0; /* a rollback has no delta */
        if (v > 0 && (link->starts || (stored && need > (int64_t)v))) need = (int64_t)v;
        needs[v] = need;
    }
    mal_free(rows);
    *out = needs;
    *out_n = n;
    return true;
}

bool mal_store_prunable(struct mal_store *store, int64_t limit, int64_t *out,
                        struct mal_error *err) {
    int64_t *needs = NULL, oldest = INT64_MAX, below = 0;
    size_t n = 0;
    if (!find_needs(store, &needs, &n, err)) return false;
    for (int64_t v = (int64_t)n - 1; v > 0 && below == 0; v--) {
        if (needs[v] < oldest) oldest = needs[v];
        if (v <= limit && oldest >= v) below = v;
    }
    mal_free(needs);
    *out = below;
    return true;
}

static bool check_needs(struct mal_store *store, int64_t below, struct mal_error *err) {
    int64_t *needs = NULL;
    size_t n = 0;
    bool done = true;
    if (!find_needs(store, &needs, &n, err)) return false;
    if (below >= (int64_t)n) {
        done = mal_fail(err, MAL_INVALID, "the live version is %" PRId64, (int64_t)n - 1);
    }
    for (size_t v = below > 0 ? (size_t)below : 0; done && v < n; v++) {
        if (needs[v] >= below) continue;
        done = mal_fail(err, MAL_CONFLICT,
                        "version %zu is made from version %" PRId64 ", which would go", v,
                        needs[v]);
    }
    mal_free(needs);
    return done;
}

bool mal_store_prune(struct mal_store *writer, int64_t below, struct mal_error *err) {
    static const enum mal_sql steps[] = {MAL_SQL_PRUNE_VALUES, MAL_SQL_PRUNE_BLOBS,
                                         MAL_SQL_PRUNE_VERSIONS};

    if (!mal_tx_begin(writer, err)) return false;
    bool done = check_needs(writer, below, err);
    for (size_t i = 0; done && i < sizeof steps / sizeof steps[0]; i++) {
        struct mal_query q;
        mal_query_open(&q, writer, steps[i]);
        mal_bind_int(&q, below);
        done = mal_query_run(&q, NULL, err);
    }
    if (mal_tx_end(writer, done, err)) return true;
    return mal_fail_wrap(err, "pruning below version %" PRId64, below);
}
