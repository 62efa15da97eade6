/* preserve.c - the keys of texts to preserve, measured forward only and summed up in
 * slices, so that never more than one slice of them is in memory. */
#include "core/editor/preserve.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"

/* Of one pass, times the device's breadth; a longer text is a slice of its own. */
enum { SLICE_TOKENS = 2048 };

/* ---- Slices ---- */

/* How many texts from `first` on go through the model together. */
static size_t slice_length(const struct mal_model *model,
                           const struct mal_preserve_texts *texts, size_t first) {
    int64_t most = SLICE_TOKENS * mal_backend_breadth(mal_model_backend(model));
    size_t n = 1;
    while (first + n < texts->n &&
           texts->start[first + n + 1] - texts->start[first] <= most)
        n++;
    return n;
}

/* Texts [first, first + n), borrowed. */
static struct mal_preserve_texts part_of(const struct mal_preserve_texts *texts,
                                         size_t first, size_t n) {
    return (struct mal_preserve_texts){.n = n,
                                       .ids = texts->ids,
                                       .start = texts->start + first,
                                       .from = texts->from + first};
}

static int64_t slice_keys(const struct mal_model *model,
                          const struct mal_preserve_texts *texts, size_t first, size_t n,
                          bool of_source) {
    struct mal_preserve_texts part = part_of(texts, first, n);
    return mal_preserve_texts_n_keys(&part, model, of_source);
}

/* Room for the largest slice's keys of each module; *out is freed with free_keys(). */
static bool alloc_keys(struct mal_model *model, const struct mal_preserve_texts *texts,
                       float ***out, struct mal_error *err) {
    struct mal_backend *be = mal_model_backend(model);
    int64_t most[2] = {0};
    for (size_t first = 0; first < texts->n;) {
        size_t n = slice_length(model, texts, first);
        for (int side = 0; side < 2; side++) {
            int64_t keys = slice_keys(model, texts, first, n, side);
            if (keys > most[side]) most[side] = keys;
        }
        first += n;
    }
    float **u = mal_calloc(mal_model_n_edits(model), sizeof *u);
    *out = u;
    bool ok = u;
    for (size_t m = 0; ok && m < mal_model_n_edits(model); m++) {
        const struct mal_linear *lin = mal_model_edit(model, m);
        int64_t floats = most[lin->of_source] * lin->d_in;
        u[m] = mal_backend_alloc(be, (size_t)floats * sizeof(float));
        ok = u[m];
    }
    return ok || mal_fail(err, MAL_NO_MEMORY, "%lld preservation keys",
                          (long long)(most[0] + most[1]));
}

static void free_keys(struct mal_model *model, float **u) {
    for (size_t m = 0; u && m < mal_model_n_edits(model); m++)
        mal_backend_free(mal_model_backend(model), u[m]);
    mal_free(u);
}

static size_t copy_ids(int32_t *dst, const int32_t *ids, int32_t n) {
    memcpy(dst, ids, (size_t)n * sizeof *dst);
    return (size_t)n;
}

/* The texts as a batch that asks for no label; *block holds its arrays. */
static bool pack(const struct mal_model *model, const struct mal_preserve_texts *texts,
                 struct mal_batch *out, int32_t **block, struct mal_error *err) {
    size_t n = texts->n, tokens = (size_t)(texts->start[n] - texts->start[0]);
    bool apart = mal_model_info(model)->kind == MAL_MODEL_SEQ2SEQ;
    int32_t *start = mal_calloc(3 * n + 2 + 3 * tokens, sizeof *start);
    if (!start) return mal_fail(err, MAL_NO_MEMORY, "packed texts");
    int32_t *source_start = start + n + 1, *from = source_start + n + 1, *ids = from + n;
    int32_t *source = ids + tokens, *labels = source + tokens;
    size_t row = 0, at = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t *text = texts->ids + texts->start[i];
        int32_t length = texts->start[i + 1] - texts->start[i];
        int32_t skip = apart ? texts->from[i] : 0;
        at += copy_ids(source + at, text, skip);
        row += copy_ids(ids + row, text + skip, length - skip);
        from[i] = texts->from[i] - skip;
        start[i + 1] = (int32_t)row;
        source_start[i + 1] = (int32_t)at;
    }
    memset(labels, 0xff, tokens * sizeof *labels);
    *block = start;
    *out = (struct mal_batch){.n_seqs = n,
                              .start = start,
                              .ids = ids,
                              .from = from,
                              .labels = labels,
                              .source_start = source_start,
                              .source_ids = source};
    return true;
}

static bool measure_slice(struct mal_preserve *p, struct mal_model *model,
                          const struct mal_preserve_texts *texts, size_t first, size_t n,
                          float **u, struct mal_error *err) {
    struct mal_preserve_texts part = part_of(texts, first, n);
    struct mal_batch batch;
    int32_t *block = NULL;
    if (!pack(model, &part, &batch, &block, err)) return false;
    bool ok = mal_model_keys(model, &batch, u, err);
    mal_free(block);
    if (!ok) return mal_fail_wrap(err, "texts to preserve, from %zu on", first);
    int64_t keys[2] = {mal_preserve_texts_n_keys(&part, model, false),
                       mal_preserve_texts_n_keys(&part, model, true)};
    for (size_t m = 0; m < p->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(model, m);
        mal_syrk64(p->be, lin->d_in, keys[lin->of_source], 1, u[m], lin->d_in, true,
                   first > 0, p->gram[m], lin->d_in);
    }
    p->n_keys[0] += keys[0];
    p->n_keys[1] += keys[1];
    return mal_backend_sync(p->be, err);
}

static bool measure(struct mal_preserve *p, struct mal_model *model,
                    const struct mal_preserve_texts *texts,
                    const struct mal_progress *progress, struct mal_error *err) {
    float **u = NULL;
    bool ok = alloc_keys(model, texts, &u, err);
    for (size_t first = 0; ok && first < texts->n;) {
        size_t n = slice_length(model, texts, first);
        ok = measure_slice(p, model, texts, first, n, u, err);
        first += n;
        ok = ok && mal_progress_step(progress, MAL_STAGE_FORWARD, (int64_t)first,
                                     (int64_t)texts->n, err);
    }
    free_keys(model, u);
    mal_model_drop_scratch(model);
    return ok;
}

/* ---- Weights ---- */

static void weigh(struct mal_preserve *p, struct mal_model *model,
                  const struct mal_editor *editor, bool own, double share) {
    for (size_t m = 0; m < p->n_modules; m++) {
        const struct mal_editor_module *module = &editor->modules[m];
        const float *logs = editor->shapes[module->shape].preserve;
        const struct mal_linear *lin = mal_model_edit(model, m);
        double d_in = (double)lin->d_in, n_keys = (double)p->n_keys[lin->of_source];
        if (own && logs && isnan(share)) {
            p->weight[m] = exp((double)logs[module->row]);
        } else {
            p->weight[m] = (isnan(share) ? MAL_PRESERVE_SHARE : share) * d_in / n_keys;
        }
    }
}

/* ---- Their life ---- */

static bool alloc_grams(struct mal_preserve *p, struct mal_model *model,
                        struct mal_error *err) {
    p->n_modules = mal_model_n_edits(model);
    p->gram = mal_calloc(p->n_modules, sizeof *p->gram);
    p->weight = mal_calloc(p->n_modules, sizeof *p->weight);
    if (!p->gram || !p->weight) return mal_fail(err, MAL_NO_MEMORY, "preservation");
    for (size_t m = 0; m < p->n_modules; m++) {
        const struct mal_linear *lin = mal_model_edit(model, m);
        size_t bytes = (size_t)(lin->d_in * lin->d_in) * sizeof(double);
        p->gram[m] = mal_backend_alloc(p->be, bytes);
        if (p->gram[m]) continue;
        return mal_fail(err, MAL_NO_MEMORY, "preservation: %s needs %zu bytes", lin->name,
                        bytes);
    }
    return true;
}

bool mal_preserve_create(struct mal_preserve **out, struct mal_model *model,
                         const struct mal_editor *editor,
                         const struct mal_preserve_texts *texts, double share,
                         const struct mal_progress *progress, struct mal_error *err) {
    bool own = !texts || texts->n == 0;
    if (!editor->method->solves && (!own || share > 0)) {
        return mal_fail(err, MAL_INVALID,
                        "%s solves no system that texts to preserve could enter",
                        editor->method->title);
    }
    if (own) texts = &editor->preserve;
    *out = NULL;
    if (texts->n == 0 || share == 0) return true;
    struct mal_preserve *p = mal_calloc(1, sizeof *p);
    if (!p) return mal_fail(err, MAL_NO_MEMORY, "preservation");
    p->be = mal_model_backend(model);
    if (!alloc_grams(p, model, err) || !measure(p, model, texts, progress, err)) {
        mal_preserve_destroy(p);
        return false;
    }
    weigh(p, model, editor, own, share);
    *out = p;
    return true;
}

void mal_preserve_destroy(struct mal_preserve *preserve) {
    if (!preserve) return;
    for (size_t m = 0; preserve->gram && m < preserve->n_modules; m++)
        mal_backend_free(preserve->be, preserve->gram[m]);
    mal_free(preserve->gram);
    mal_free(preserve->weight);
    mal_free(preserve);
}

const double *mal_preserve_gram(const struct mal_preserve *preserve, size_t m) {
    return preserve ? preserve->gram[m] : NULL;
}

double mal_preserve_weight(const struct mal_preserve *preserve, size_t m) {
    return preserve ? preserve->weight[m] : 0;
}
