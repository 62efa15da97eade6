/* preserve_file.c - the texts to preserve that an editor's file carries, which are
 * hostile input as the rest of it. */
#include <inttypes.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"
#include "core/safetensors.h"

enum { IDS, START, FROM };

const char *const mal_preserve_names[MAL_N_PRESERVE] = {
    [IDS] = "preserve.ids", [START] = "preserve.start", [FROM] = "preserve.from"};

bool mal_preserve_is_name(const char *name) {
    for (size_t i = 0; i < MAL_N_PRESERVE; i++) {
        if (strcmp(name, mal_preserve_names[i]) == 0) return true;
    }
    return false;
}

/* *out, owned by the caller, has n elements. */
static bool read_ints(const struct mal_safetensors *file, const char *name, int32_t **out,
                      int64_t *n, struct mal_error *err) {
    const struct mal_st_tensor *t = mal_safetensors_find(file, name);
    if (!t) return mal_fail(err, MAL_CORRUPT, "tensor '%s' is missing", name);
    if (t->dtype != MAL_I32 || t->n_dims != 1 || t->n_elements < 1 ||
        t->n_elements > INT32_MAX) {
        return mal_fail(err, MAL_CORRUPT,
                        "tensor '%s' is %s of %d dimensions and %" PRId64
                        " elements, not I32 of one dimension",
                        name, mal_dtype_name(t->dtype), t->n_dims, t->n_elements);
    }
    *out = mal_malloc((size_t)t->bytes);
    if (!*out) return mal_fail(err, MAL_NO_MEMORY, "texts to preserve");
    *n = t->n_elements;
    return mal_safetensors_read(file, t, 0, *out, (size_t)t->bytes, err);
}

static bool fail_at(const char *name, int64_t i, int32_t value, struct mal_error *err) {
    return mal_fail(err, MAL_CORRUPT, "tensor '%s': element %" PRId64 " is %d", name, i,
                    value);
}

/* start rises from 0 to n_ids, from is inside its text, ids are not negative. */
static bool check_texts(const struct mal_preserve_texts *texts, int64_t n_ids,
                        struct mal_error *err) {
    int64_t n = (int64_t)texts->n;
    if (texts->start[0] != 0)
        return fail_at(mal_preserve_names[START], 0, texts->start[0], err);
    for (int64_t i = 0; i < n; i++) {
        int32_t end = texts->start[i + 1], from = texts->from[i];
        if (end <= texts->start[i] || end > n_ids || (i == n - 1 && end != n_ids))
            return fail_at(mal_preserve_names[START], i + 1, end, err);
        if (from < 0 || from >= end - texts->start[i])
            return fail_at(mal_preserve_names[FROM], i, from, err);
    }
    for (int64_t i = 0; i < n_ids; i++) {
        if (texts->ids[i] < 0)
            return fail_at(mal_preserve_names[IDS], i, texts->ids[i], err);
    }
    return true;
}

bool mal_preserve_texts_read(struct mal_preserve_texts *out,
                             const struct mal_safetensors *file, struct mal_error *err) {
    size_t there = 0;
    for (size_t i = 0; i < MAL_N_PRESERVE; i++)
        there += mal_safetensors_find(file, mal_preserve_names[i]) != NULL;
    if (there == 0) return true;
    struct mal_preserve_texts texts = {0};
    int64_t n_ids = 0, n_start = 0, n = 0;
    bool ok = read_ints(file, mal_preserve_names[IDS], &texts.ids, &n_ids, err) &&
              read_ints(file, mal_preserve_names[START], &texts.start, &n_start, err) &&
              read_ints(file, mal_preserve_names[FROM], &texts.from, &n, err);
    if (ok && n_start != n + 1) {
        ok = mal_fail(err, MAL_CORRUPT,
                      "tensor '%s' has %" PRId64 " elements for %" PRId64 " texts",
                      mal_preserve_names[START], n_start, n);
    }
    texts.n = (size_t)n;
    ok = ok && check_texts(&texts, n_ids, err);
    if (!ok) {
        mal_preserve_texts_finish(&texts);
        return false;
    }
    *out = texts;
    return true;
}
