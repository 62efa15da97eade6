/* retention.c - keyframes and pruning. */
#include "daemon/worker/retention.h"

#include <stdatomic.h>

#include <jansson.h>

#include "core/alloc.h"
#include "daemon/base/log.h"
#include "daemon/base/metrics.h"
#include "daemon/engine/history.h"

/* ---- Policy ---- */

int64_t mal_retention_need(const struct mal_retained *versions, size_t n,
                           const struct mal_version_row *row) {
    bool rollback = row->to_version >= 0;
    int64_t before = rollback ? row->to_version : row->parent;
    if (before < 0 || before >= (int64_t)n) return INT64_MAX; /* the base */
    if (row->keyframe || row->kind == MAL_VERSION_CONSOLIDATION) return row->version;
    int64_t need = versions[before].need;
    return rollback || need < row->version ? need : row->version;
}

static int64_t least(int64_t a, int64_t b) {
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b) {
    return a > b ? a : b;
}

/* The first version that is not older than the limit. */
static int64_t first_young(const struct mal_retention_options *options,
                           const struct mal_retained *versions, size_t n,
                           int64_t now_ms) {
    int64_t v = 1;
    if (options->retain_ms == 0) return v;
    while (v < (int64_t)n && versions[v].created_ms < now_ms - options->retain_ms)
        v++;
    return v;
}

void mal_retention_choose(const struct mal_retention_options *options,
                          const struct mal_retained *versions, size_t n, int64_t now_ms,
                          struct mal_retention_choice *out) {
    const uint64_t limit =
        options->retain_bytes ? (uint64_t)options->retain_bytes : UINT64_MAX;
    int64_t last = (int64_t)n - 1, highest = last - options->keep_versions;
    int64_t young = least(first_young(options, versions, n, now_ms), highest);
    int64_t oldest = 1, need = INT64_MAX;
    int64_t by_age = 0, by_bytes = 0, any = 0; /* that may be `below`; 0: none */
    int64_t small = 1;                         /* versions from here on keep the limit */
    uint64_t bytes = versions[0].bytes;
    for (; oldest <= last && versions[oldest].pruned; oldest++)
        bytes += versions[oldest].bytes; /* values that later versions have */
    for (int64_t v = last; v >= oldest; v--) {
        need = least(need, versions[v].need);
        bytes += versions[v].bytes;
        if (bytes > limit && small == 1) small = v + 1;
        if (v > highest || need < v) continue;
        if (any == 0) any = v;
        if (by_age == 0 && v <= young) by_age = v;
        if (bytes <= limit) by_bytes = v;
    }
    bool much = bytes > limit;
    out->over = much && by_bytes == 0;
    out->wanted = most(young, least(small, highest));
    int64_t below = options->retain_ms ? by_age : 0;
    if (much) below = most(below, out->over ? any : by_bytes);
    out->below = below > oldest ? below : 0;
}

/* ---- Running it ---- */

struct mal_retention {
    struct mal_retention_options o;
    _Atomic int64_t wanted; /* of the last choice; read by the worker's thread */
    /* The writer's thread only. */
    struct mal_retained *versions; /* (n), owned */
    size_t n, capacity;
    bool over;
};

bool mal_retention_create(struct mal_retention **out,
                          const struct mal_retention_options *options,
                          struct mal_error *err) {
    struct mal_retention *r = mal_calloc(1, sizeof *r);
    if (!r) return mal_fail(err, MAL_NO_MEMORY, "retention");
    r->o = *options;
    *out = r;
    return true;
}

void mal_retention_destroy(struct mal_retention *retention) {
    if (!retention) return;
    mal_free(retention->versions);
    mal_free(retention);
}

/* Whether a rollback to that version reads what the limits want gone. */
static bool crosses(struct mal_retention *r, struct mal_store *store, int64_t to_version,
                    int64_t now_ms, bool *out, struct mal_error *err) {
    struct mal_history_plan plan;
    struct mal_version_row row = {0};
    *out = false;
    if (!mal_history_plan(store, to_version, &plan, err)) return false;
    int64_t need = plan.keyframe >= 0 ? plan.keyframe : plan.n ? plan.deltas[0] : 0;
    mal_history_plan_finish(&plan);
    if (need == 0) return true;
    if (!mal_store_get_version(store, need, &row, err)) return false;
    *out = need < atomic_load(&r->wanted) ||
           (r->o.retain_ms && row.created_ms < now_ms - r->o.retain_ms);
    mal_version_row_finish(&row);
    return true;
}

bool mal_retention_wants_keyframe(struct mal_retention *retention,
                                  struct mal_store *store,
                                  const struct mal_version_row *row, int64_t now_ms,
                                  bool *out, struct mal_error *err) {
    *out = false;
    if (retention->o.keyframe_every == 0 || row->version == 0 ||
        row->kind == MAL_VERSION_CONSOLIDATION) {
        return true;
    }
    if (row->to_version >= 0)
        return crosses(retention, store, row->to_version, now_ms, out, err);
    struct mal_history_plan plan;
    if (!mal_history_plan(store, row->parent, &plan, err)) return false;
    *out = (int64_t)plan.n + 1 >= retention->o.keyframe_every;
    mal_history_plan_finish(&plan);
    return true;
}

static bool add_version(struct mal_retention *r, struct mal_store *store,
                        struct mal_error *err) {
    if (r->n == r->capacity) {
        size_t capacity = 2 * r->capacity + 64;
        void *versions = mal_realloc(r->versions, capacity * sizeof *r->versions);
        if (!versions) return mal_fail(err, MAL_NO_MEMORY, "%zu versions", capacity);
        r->versions = versions;
        r->capacity = capacity;
    }
    struct mal_version_row row = {0};
    struct mal_retained *version = &r->versions[r->n];
    bool ok = mal_store_get_version(store, (int64_t)r->n, &row, err);
    *version = (struct mal_retained){.created_ms = row.created_ms, .pruned = row.pruned};
    ok = ok && mal_store_bytes(store, row.version, &version->bytes, err);
    if (ok) version->need = mal_retention_need(r->versions, r->n++, &row);
    mal_version_row_finish(&row);
    return ok;
}

static bool catch_up(struct mal_retention *r, struct mal_store *store,
                     struct mal_error *err) {
    int64_t last;
    if (!mal_store_last_version(store, &last, err)) return false;
    while ((int64_t)r->n <= last)
        if (!add_version(r, store, err)) return false;
    return true;
}

/* What is left of pruned versions are values that are still in force; those too go in
 * time.
 */
static bool prune(struct mal_retention *r, struct mal_store *writer, int64_t below,
                  struct mal_error *err) {
    int64_t n = 0;
    uint64_t before = 0, after = 0;
    if (!mal_store_prune(writer, below, err)) return false;
    for (int64_t v = 1; v < below; v++) {
        struct mal_retained *version = &r->versions[v];
        n += !version->pruned;
        version->pruned = true;
        if (version->bytes == 0) continue;
        before += version->bytes;
        if (!mal_store_bytes(writer, v, &version->bytes, err)) return false;
        after += version->bytes;
    }
    if (r->o.metrics) {
        mal_count(&r->o.metrics->versions_pruned, (uint64_t)n);
        mal_count(&r->o.metrics->bytes_pruned, before - after);
    }
    mal_log("info", "versions pruned", "{s:I,s:I,s:I}", "below_version",
            (json_int_t)below, "versions", (json_int_t)n, "bytes",
            (json_int_t)(before - after));
    return true;
}

static void tell(struct mal_retention *r, bool over) {
    if (over == r->over) return;
    r->over = over;
    uint64_t bytes = 0;
    for (size_t v = 0; v < r->n; v++)
        bytes += r->versions[v].bytes;
    mal_log(over ? "warning" : "info",
            over ? "versions take more than retain-bytes" : "versions fit retain-bytes",
            "{s:I,s:I}", "bytes", (json_int_t)bytes, "retain_bytes",
            (json_int_t)r->o.retain_bytes);
}

bool mal_retention_run(struct mal_retention *retention, struct mal_store *writer,
                       int64_t now_ms, struct mal_error *err) {
    struct mal_retention *r = retention;
    struct mal_retention_choice choice = {0};
    if (r->o.retain_bytes == 0 && r->o.retain_ms == 0) return true;
    if (!catch_up(r, writer, err)) return false;
    while (mal_retention_choose(&r->o, r->versions, r->n, now_ms, &choice),
           choice.below) {
        if (!prune(r, writer, choice.below, err)) return false;
    }
    atomic_store(&r->wanted, choice.wanted);
    tell(r, choice.over);
    return true;
}
