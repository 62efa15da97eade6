/* members.c - which facts' keys a joint system holds. */
#include "daemon/engine/members.h"

#include <assert.h>
#include <stdint.h>
#include <string.h>

#include "core/alloc.h"
#include "daemon/engine/fact_set.h"

enum { TOGETHER = 256 }; /* facts whose keys are measured in one go */

void mal_members_drop(struct mal_members *members) {
    mal_joint_destroy(members->joint);
    mal_free(members->keys);
    *members = (struct mal_members){0};
}

static int64_t key_of(int64_t seq, bool pinned) {
    return 2 * seq + pinned;
}

/* Where a key is, or belongs. */
static size_t find(const struct mal_members *members, int64_t key) {
    size_t from = 0, to = members->n;
    while (from < to) {
        size_t middle = from + (to - from) / 2;
        if (members->keys[middle] < key) {
            from = middle + 1;
        } else {
            to = middle;
        }
    }
    return from;
}

bool mal_members_reserve(struct mal_members *members, size_t n, struct mal_error *err) {
    size_t needed = members->n + n, capacity = 2 * needed + 256;
    if (needed <= members->capacity) return true;
    int64_t *keys = mal_realloc(members->keys, capacity * sizeof *keys);
    if (!keys) return mal_fail(err, MAL_NO_MEMORY, "live facts");
    members->keys = keys;
    members->capacity = capacity;
    return true;
}

void mal_members_note(struct mal_members *members, int64_t seq, bool pinned, bool in) {
    int64_t key = key_of(seq, pinned);
    size_t at = find(members, key), rest = members->n - at;
    int64_t *place = members->keys + at;
    bool there = rest > 0 && *place == key;
    if (there == in) return;
    assert(!in || members->n < members->capacity);
    if (in) {
        memmove(place + 1, place, rest * sizeof *place);
        *place = key;
        members->n++;
    } else {
        memmove(place, place + 1, (rest - 1) * sizeof *place);
        members->n--;
    }
}

/* ---- In step with the database ---- */

/* These facts in or out, a bounded number at a time. */
static bool move(struct mal_members *members, const struct mal_members_of *of,
                 struct mal_store *store, const int64_t *keys, size_t n, bool in,
                 const struct mal_progress *progress, struct mal_error *err) {
    struct mal_fact_row *rows = mal_calloc(n, sizeof *rows);
    struct mal_fact_set set = {0};
    if (!rows) return mal_fail(err, MAL_NO_MEMORY, "live facts");
    bool ok = true;
    for (size_t i = 0; ok && i < n; i++) {
        ok = mal_store_get_fact_seq(store, keys[i] / 2, &rows[i], err);
        rows[i].pinned = keys[i] % 2; /* of one that goes, what it was */
    }
    ok = ok && mal_members_reserve(members, n, err) &&
         mal_fact_set_of_rows(&set, of->model, of->tok, rows, n, err) &&
         mal_fact_set_hold(&set, of->model, of->tok, false, progress, err) &&
         mal_joint_add_keys(members->joint, set.texts, set.n_texts, set.held, set.n_held,
                            in ? 1 : -1, progress, err);
    mal_fact_set_finish(&set);
    for (size_t i = 0; i < n; i++)
        mal_fact_row_finish(&rows[i]);
    mal_free(rows);
    for (size_t i = 0; ok && i < n; i++)
        mal_members_note(members, keys[i] / 2, keys[i] % 2, in);
    return ok;
}

/* Of two ascending lists what only one has: of `wanted` where `in`, else of the members'.
 * *out owned. */
static bool differ(const struct mal_members *members, const struct mal_member *wanted,
                   size_t n_wanted, bool in, int64_t **out, size_t *out_n,
                   struct mal_error *err) {
    size_t n = in ? n_wanted : members->n, i = 0, j = 0;
    *out_n = 0;
    *out = mal_calloc(n + 1, sizeof **out);
    if (!*out) return mal_fail(err, MAL_NO_MEMORY, "live facts");
    while (i < n_wanted || j < members->n) {
        int64_t theirs =
            i < n_wanted ? key_of(wanted[i].seq, wanted[i].pinned) : INT64_MAX;
        int64_t ours = j < members->n ? members->keys[j] : INT64_MAX;
        if (theirs < ours && in) (*out)[(*out_n)++] = theirs;
        if (ours < theirs && !in) (*out)[(*out_n)++] = ours;
        if (theirs <= ours) i++;
        if (ours <= theirs) j++;
    }
    return true;
}

static bool move_all(struct mal_members *members, const struct mal_members_of *of,
                     struct mal_store *store, const struct mal_member *wanted, size_t n,
                     bool in, const struct mal_progress *progress,
                     struct mal_error *err) {
    int64_t *keys = NULL;
    size_t n_keys = 0;
    bool ok = differ(members, wanted, n, in, &keys, &n_keys, err);
    for (size_t i = 0; ok && i < n_keys; i += TOGETHER) {
        size_t left = n_keys - i;
        ok = move(members, of, store, keys + i, left < TOGETHER ? left : TOGETHER, in,
                  progress, err);
    }
    mal_free(keys);
    return ok;
}

bool mal_members_sync(struct mal_members *members, const struct mal_members_of *of,
                      struct mal_store *store, const struct mal_progress *progress,
                      struct mal_error *err) {
    struct mal_member *wanted = NULL;
    size_t n = 0;
    if (members->joint && !mal_joint_is_whole(members->joint)) mal_members_drop(members);
    if (!members->joint && !mal_joint_create(&members->joint, of->model, of->editor,
                                             of->preserve, of->max_bytes, err))
        return false;
    if (!mal_store_member_list(store, &wanted, &n, err)) return false;
    bool ok = move_all(members, of, store, wanted, n, false, progress, err) &&
              move_all(members, of, store, wanted, n, true, progress, err);
    mal_free(wanted);
    return ok;
}
