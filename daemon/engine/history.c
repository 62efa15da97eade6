/* history.c - which stored versions make the weights of a version, and replaying them. */
#include "daemon/engine/history.h"

#include <string.h>

#include "core/alloc.h"
#include "daemon/engine/history_impl.h"

bool mal_history_step(const struct mal_version_row *row, int64_t *version,
                      struct mal_error *err) {
    int64_t next = row->to_version >= 0 ? row->to_version : row->parent;
    if (next >= row->version || next < 0) {
        return mal_fail(err, MAL_CORRUPT, "version %lld leads to version %lld",
                        (long long)row->version, (long long)next);
    }
    *version = next;
    return true;
}

/* ---- The path ---- */

/* `added` NULL: not asked. */
static bool walk_path(struct mal_store *store, int64_t version, int64_t *path,
                      bool *added, size_t *n, struct mal_error *err) {
    while (version > 0) {
        struct mal_version_row row = {0};
        if (!mal_store_get_version(store, version, &row, err)) return false;
        bool begins = mal_history_begins(&row);
        if (row.to_version < 0) {
            if (added) added[*n] = row.n_facts > 0 && !strcmp(row.update, "sequential");
            path[(*n)++] = version;
        }
        bool ok = mal_history_step(&row, &version, err);
        mal_version_row_finish(&row);
        if (!ok) return false;
        if (begins) break;
    }
    return true;
}

static void reverse(int64_t *path, bool *added, size_t n) {
    for (size_t i = 0, j = n; i + 1 < j; i++) {
        int64_t v = path[i];
        path[i] = path[--j];
        path[j] = v;
        if (!added) continue;
        bool one = added[i];
        added[i] = added[j];
        added[j] = one;
    }
}

static bool make_path(struct mal_store *store, int64_t version, int64_t **out,
                      bool **out_added, size_t *out_n, struct mal_error *err) {
    size_t n = 0, most = (size_t)version + 1;
    int64_t *path = mal_calloc(most, sizeof *path);
    bool *added = out_added ? mal_calloc(most, sizeof *added) : NULL;
    bool ok = (path && (added || !out_added)) || mal_fail(err, MAL_NO_MEMORY, "versions");
    if (!ok || !walk_path(store, version, path, added, &n, err)) {
        mal_free(path);
        mal_free(added);
        return false;
    }
    reverse(path, added, n);
    *out = path;
    if (out_added) *out_added = added;
    *out_n = n;
    return true;
}

bool mal_history_path(struct mal_store *store, int64_t version, int64_t **out,
                      size_t *out_n, struct mal_error *err) {
    return make_path(store, version, out, NULL, out_n, err);
}

bool mal_history_joint_path(struct mal_store *store, int64_t version, int64_t **out,
                            bool **out_added, size_t *out_n, struct mal_error *err) {
    return make_path(store, version, out, out_added, out_n, err);
}

/* ---- The plan ---- */

bool mal_history_check_stored(const struct mal_version_row *row, struct mal_error *err) {
    if (!row->pruned) return true;
    return mal_fail(err, MAL_CONFLICT,
                    "version %lld was pruned: its weights are no longer stored",
                    (long long)row->version);
}

/* A rollback that stores nothing may be gone. */
static bool check_step(const struct mal_version_row *row, int64_t asked,
                       struct mal_error *err) {
    if (row->version == asked) return mal_history_check_stored(row, err);
    bool read = row->keyframe || row->to_version < 0;
    if (!row->pruned || !read) return true;
    return mal_fail(err, MAL_CORRUPT,
                    "version %lld is made from version %lld, which was pruned",
                    (long long)asked, (long long)row->version);
}

static bool walk_plan(struct mal_store *store, int64_t version,
                      struct mal_history_plan *plan, struct mal_error *err) {
    int64_t asked = version;
    while (version > 0) {
        struct mal_version_row row = {0};
        if (!mal_store_get_version(store, version, &row, err)) return false;
        bool begins = row.keyframe || mal_history_begins(&row);
        bool ok = check_step(&row, asked, err);
        if (row.keyframe) {
            plan->keyframe = version;
        } else if (row.to_version < 0) {
            plan->deltas[plan->n++] = version;
        }
        ok = ok && mal_history_step(&row, &version, err);
        mal_version_row_finish(&row);
        if (!ok) return false;
        if (begins) break;
    }
    return true;
}

bool mal_history_plan(struct mal_store *store, int64_t version,
                      struct mal_history_plan *out, struct mal_error *err) {
    struct mal_history_plan plan = {.keyframe = -1};
    plan.deltas = mal_calloc((size_t)version + 1, sizeof *plan.deltas);
    if (!plan.deltas) return mal_fail(err, MAL_NO_MEMORY, "versions");
    if (!walk_plan(store, version, &plan, err)) {
        mal_history_plan_finish(&plan);
        return false;
    }
    reverse(plan.deltas, NULL, plan.n);
    *out = plan;
    return true;
}

void mal_history_plan_finish(struct mal_history_plan *plan) {
    mal_free(plan->deltas);
    *plan = (struct mal_history_plan){.keyframe = -1};
}

/* ---- Replay ---- */

struct replay {
    struct mal_store *store;
    struct mal_history_plan plan;
    struct mal_blob_row *blobs;   /* (n_blobs) of the keyframe's version */
    size_t n_blobs, first, n_set; /* those that are the keyframe */
};

static bool open_keyframe(struct replay *r, struct mal_error *err) {
    if (r->plan.keyframe < 0) return true;
    if (!mal_store_blobs(r->store, r->plan.keyframe, &r->blobs, &r->n_blobs, err))
        return false;
    while (r->first < r->n_blobs && !mal_blob_is(&r->blobs[r->first], MAL_BLOB_KEYFRAME))
        r->first++;
    while (r->first + r->n_set < r->n_blobs &&
           mal_blob_is(&r->blobs[r->first + r->n_set], MAL_BLOB_KEYFRAME)) {
        r->n_set++;
    }
    return true;
}

static bool next(void *arg, size_t i, struct mal_delta *out, struct mal_error *err) {
    const struct replay *r = arg;
    if (i >= r->n_set)
        return mal_history_delta(r->store, r->plan.deltas[i - r->n_set], out, err);
    out->parts = mal_calloc(1, sizeof *out->parts);
    if (!out->parts) return mal_fail(err, MAL_NO_MEMORY, "keyframe");
    out->n_parts = 1;
    return mal_blob_read_part(r->store, r->plan.keyframe, &r->blobs[r->first + i],
                              out->parts, err);
}

bool mal_history_replay(struct mal_store *store, int64_t version,
                        struct mal_weights_state *ws, void (*tick)(void *),
                        void *tick_arg, struct mal_error *err) {
    struct replay r = {.store = store};
    if (!mal_history_plan(store, version, &r.plan, err)) return false;
    bool ok = open_keyframe(&r, err);
    struct mal_replay replay = {
        .n_set = r.n_set, .n = r.n_set + r.plan.n, .next = next, .arg = &r};
    ok = ok && mal_weights_prepare_replay(ws, &replay, tick, tick_arg, err);
    mal_blob_rows_free(r.blobs, r.n_blobs);
    mal_history_plan_finish(&r.plan);
    return ok;
}
