/* tune_state.c - a fine-tuning in one safetensors file: of each tensor the shift and
 * Adam's moments, and the position. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/clock.h"
#include "core/editor/resume.h"
#include "core/editor/tune_impl.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/safetensors.h"

enum { NUMBER = 40, SHARE = 20 };

/* ---- Which tuning it is ---- */

static void hash_real(struct mal_hasher *hasher, double x) {
    uint64_t bits;
    memcpy(&bits, &x, sizeof bits);
    mal_hasher_add_u64(hasher, bits);
}

static void hash_way(struct mal_hasher *hasher, const struct mal_tune_way *way) {
    const uint64_t whole[] = {(uint64_t)way->loss,     way->ends,
                              way->shuffled,           way->seed,
                              (uint64_t)way->n_passes, way->batch};
    const double real[] = {way->lr, way->decay, way->bound};
    for (size_t i = 0; i < sizeof whole / sizeof *whole; i++)
        mal_hasher_add_u64(hasher, whole[i]);
    for (size_t i = 0; i < sizeof real / sizeof *real; i++)
        hash_real(hasher, real[i]);
}

static void hash_text(struct mal_hasher *hasher, const struct mal_example *text) {
    const int64_t numbers[] = {text->n, text->from, text->n_target, text->has_decoder,
                               text->decoder_start};
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        mal_hasher_add_u64(hasher, (uint64_t)numbers[i]);
    mal_hasher_add(hasher, text->ids, (size_t)text->n * sizeof *text->ids);
    mal_hasher_add(hasher, text->target, (size_t)text->n_target * sizeof *text->target);
}

/* Of texts, numbers and tensors. */
static bool hash_work(const struct mal_tune *tune, char out[MAL_HASH_HEX],
                      struct mal_error *err) {
    struct mal_hasher *hasher;
    if (!mal_hasher_create(&hasher, err)) return false;
    hash_way(hasher, tune->way);
    mal_hasher_add_u64(hasher, tune->n_texts);
    for (size_t i = 0; i < tune->n_texts; i++)
        hash_text(hasher, &tune->texts[i]);
    for (size_t i = 0; i < tune->draft.n; i++) {
        const struct mal_linear *lin = tune->draft.tensors[i].lin;
        mal_hasher_add_text(hasher, lin->name);
        mal_hasher_add_u64(hasher, (uint64_t)lin->d_in);
        mal_hasher_add_u64(hasher, (uint64_t)lin->d_out);
    }
    struct mal_hash hash = mal_hasher_end(hasher);
    mal_hash_hex(&hash, out);
    mal_hasher_destroy(hasher);
    return true;
}

static void tell(const struct mal_tune *tune, enum mal_resume_event what,
                 const struct mal_error *why) {
    const struct mal_resume *resume = tune->task->resume;
    if (resume->tell) resume->tell(resume->arg, what, tune->now.done, tune->total, why);
}

/* ---- Its tensors ---- */

enum { SHIFT, MEAN, SQUARE, N_KINDS };

static const char *const kinds[N_KINDS] = {"shift.", "adam.m.", "adam.v."};

struct item {
    char *name;    /* owned */
    float *device; /* borrowed */
    float *host;   /* the same where that is the host, else owned */
    size_t n;
};

static void items_finish(const struct mal_tune *tune, struct item *items) {
    bool copies = !mal_backend_on_host(tune->draft.be);
    for (size_t i = 0; items && i < N_KINDS * tune->draft.n; i++) {
        if (copies) mal_free(items[i].host);
        mal_free(items[i].name);
    }
    mal_free(items);
}

static char *name_of(const char *kind, const char *module) {
    size_t bytes = strlen(kind) + strlen(module) + 1;
    char *name = mal_malloc(bytes);
    if (name) snprintf(name, bytes, "%s%s", kind, module);
    return name;
}

static struct item *list_items(const struct mal_tune *tune, struct mal_error *err) {
    struct item *items = mal_calloc(N_KINDS * tune->draft.n + 1, sizeof *items);
    bool host = mal_backend_on_host(tune->draft.be), ok = items != NULL;
    for (size_t i = 0; ok && i < tune->draft.n; i++) {
        const struct mal_draft_tensor *t = &tune->draft.tensors[i];
        float *const data[N_KINDS] = {t->shift, tune->mean[i], tune->square[i]};
        size_t n = mal_tune_elements(tune, i);
        for (int k = 0; ok && k < N_KINDS; k++) {
            struct item *item = &items[N_KINDS * i + (size_t)k];
            *item = (struct item){.name = name_of(kinds[k], t->lin->name),
                                  .device = data[k],
                                  .host = host ? data[k] : mal_malloc(n * sizeof(float)),
                                  .n = n};
            ok = item->name && item->host;
        }
    }
    if (ok) return items;
    items_finish(tune, items);
    (void)mal_fail(err, MAL_NO_MEMORY, "state of the fine-tuning");
    return NULL;
}

/* ---- Writing ---- */

static bool write_items(const struct mal_tune *tune, const struct item *items,
                        struct mal_error *err) {
    const struct mal_tune_position *p = &tune->now;
    size_t n = N_KINDS * tune->draft.n;
    char work[MAL_HASH_HEX], pass[NUMBER], at[NUMBER], steps[NUMBER], sum[NUMBER],
        first[NUMBER];
    struct mal_st_entry *entries = mal_calloc(n, sizeof *entries);
    if (!entries) return mal_fail(err, MAL_NO_MEMORY, "state of the fine-tuning");
    for (size_t i = 0; i < n; i++)
        entries[i] = (struct mal_st_entry){.name = items[i].name,
                                           .dtype = MAL_F32,
                                           .n_dims = 1,
                                           .shape = {(int64_t)items[i].n},
                                           .data = items[i].host};
    snprintf(pass, sizeof pass, "%" PRId64, p->pass);
    snprintf(at, sizeof at, "%zu", p->at);
    snprintf(steps, sizeof steps, "%" PRId64, p->steps);
    snprintf(sum, sizeof sum, "%a", p->sum);
    snprintf(first, sizeof first, "%a", p->first);
    const struct mal_st_meta metadata[] = {{"format", mal_resume_format},
                                           {"run", tune->task->resume->run},
                                           {"work", work},
                                           {"pass", pass},
                                           {"at", at},
                                           {"steps", steps},
                                           {"sum", sum},
                                           {"first", first}};
    bool ok = hash_work(tune, work, err) &&
              mal_safetensors_write(tune->task->resume->path, entries, n, metadata,
                                    sizeof metadata / sizeof *metadata, err);
    mal_free(entries);
    return ok;
}

static bool save(const struct mal_tune *tune, struct mal_error *err) {
    struct mal_backend *be = tune->draft.be;
    struct item *items = list_items(tune, err);
    if (!items) return false;
    for (size_t i = 0; i < N_KINDS * tune->draft.n; i++) {
        if (items[i].host != items[i].device)
            mal_backend_download(be, items[i].host, items[i].device,
                                 items[i].n * sizeof(float));
    }
    bool ok = mal_backend_sync(be, err) && write_items(tune, items, err);
    items_finish(tune, items);
    return ok;
}

void mal_tune_save(struct mal_tune *tune, bool now) {
    const struct mal_resume *resume = tune->task->resume;
    struct mal_error why = {0};
    double begin = mal_clock_seconds(), since = begin - tune->saved_at;
    if (!resume || tune->now.done == tune->saved.done) return;
    if (!now && (since < resume->seconds || since < SHARE * tune->save_seconds)) return;
    bool ok = save(tune, &why);
    tune->saved = tune->now;
    tune->saved_at = mal_clock_seconds();
    tune->save_seconds = tune->saved_at - begin;
    tell(tune, ok ? MAL_RESUME_SAVED : MAL_RESUME_UNSAVED, &why);
}

/* ---- Reading ---- */

static bool read_count(const struct mal_safetensors *file, const char *key, int64_t most,
                       int64_t *out, struct mal_error *err) {
    const char *text = mal_safetensors_metadata(file, key);
    char *stop = NULL;
    long long value = text ? strtoll(text, &stop, 10) : -1;
    *out = value;
    return (text && stop != text && !*stop && value >= 0 && value <= most) ||
           mal_fail(err, MAL_CORRUPT, "%s: metadata '%s' is not a count up to %lld",
                    mal_file_shown(mal_safetensors_path(file)), key, (long long)most);
}

static bool read_real(const struct mal_safetensors *file, const char *key, double *out,
                      struct mal_error *err) {
    const char *text = mal_safetensors_metadata(file, key);
    char *stop = NULL;
    *out = text ? strtod(text, &stop) : NAN;
    return (text && stop != text && !*stop && isfinite(*out)) ||
           mal_fail(err, MAL_CORRUPT, "%s: metadata '%s' is not a number",
                    mal_file_shown(mal_safetensors_path(file)), key);
}

static bool read_position(const struct mal_safetensors *file, const struct mal_tune *tune,
                          struct mal_tune_position *out, struct mal_error *err) {
    const struct mal_tune_way *way = tune->way;
    int64_t batch = (int64_t)way->batch, n = (int64_t)tune->n_texts,
            per_pass = (n + batch - 1) / batch, at;
    struct mal_tune_position p = {0};
    if (!read_count(file, "pass", way->n_passes - 1, &p.pass, err) ||
        !read_count(file, "at", n - 1, &at, err) ||
        !read_count(file, "steps", tune->total, &p.steps, err) ||
        !read_real(file, "sum", &p.sum, err) || !read_real(file, "first", &p.first, err))
        return false;
    if (at % batch) {
        return mal_fail(err, MAL_CORRUPT, "%s: metadata 'at' is in a mini-batch",
                        mal_file_shown(mal_safetensors_path(file)));
    }
    p.at = (size_t)at;
    p.done = p.pass * per_pass + at / batch;
    *out = p;
    return true;
}

static bool read_item(const struct mal_safetensors *file, struct mal_backend *be,
                      const struct item *item, bool squares, struct mal_error *err) {
    const char *path = mal_file_shown(mal_safetensors_path(file));
    const struct mal_st_tensor *t = mal_safetensors_find(file, item->name);
    if (!t || t->dtype != MAL_F32 || t->n_elements != (int64_t)item->n) {
        return mal_fail(err, MAL_CORRUPT, "%s: tensor '%s' is not %zu numbers in F32",
                        path, item->name, item->n);
    }
    if (!mal_safetensors_read_f32(file, t, item->host, err)) return false;
    for (size_t i = 0; i < item->n; i++) {
        float x = item->host[i];
        if (isfinite(x) && !(squares && x < 0)) continue;
        return mal_fail(err, MAL_CORRUPT, "%s: tensor '%s': element %zu is %g", path,
                        item->name, i, (double)x);
    }
    if (item->host != item->device)
        mal_backend_upload(be, item->device, item->host, item->n * sizeof(float));
    return true;
}

static bool read_items(const struct mal_safetensors *file, struct mal_tune *tune,
                       struct mal_error *err) {
    struct item *items = list_items(tune, err);
    bool ok = items != NULL;
    for (size_t i = 0; ok && i < N_KINDS * tune->draft.n; i++)
        ok = read_item(file, tune->draft.be, &items[i], i % N_KINDS == SQUARE, err);
    ok = ok && mal_backend_sync(tune->draft.be, err); /* before the copies go */
    items_finish(tune, items);
    return ok;
}

/* *out_same false: the file is another edit's. */
static bool load(struct mal_tune *tune, bool *out_same, struct mal_error *err) {
    const struct mal_resume *resume = tune->task->resume;
    struct mal_safetensors *file;
    struct mal_tune_position position = {0};
    char want[MAL_HASH_HEX];
    *out_same = false;
    if (!hash_work(tune, want, err) || !mal_resume_open(&file, resume->path, err))
        return false;
    bool same = !strcmp(mal_safetensors_metadata(file, "run"), resume->run) &&
                !strcmp(mal_safetensors_metadata(file, "work"), want);
    bool ok = !same ||
              (read_position(file, tune, &position, err) && read_items(file, tune, err));
    mal_safetensors_close(file);
    if (!ok || !same) return ok;
    for (size_t i = 0; position.steps > 0 && i < tune->draft.n; i++)
        mal_draft_round(&tune->draft, i);
    tune->now = tune->saved = position;
    *out_same = true;
    return mal_backend_sync(tune->draft.be, err);
}

/* After a part was read. */
static bool begin_anew(struct mal_tune *tune, struct mal_error *err) {
    struct mal_backend *be = tune->draft.be;
    for (size_t i = 0; i < tune->draft.n; i++) {
        size_t bytes = mal_tune_elements(tune, i) * sizeof(float);
        mal_backend_zero(be, tune->draft.tensors[i].shift, bytes);
        mal_backend_zero(be, tune->mean[i], bytes);
        mal_backend_zero(be, tune->square[i], bytes);
    }
    return mal_backend_sync(be, err);
}

bool mal_tune_resume(struct mal_tune *tune, struct mal_error *err) {
    struct mal_error why = {0};
    bool same = false;
    tune->saved_at = mal_clock_seconds();
    if (!tune->task->resume) return true;
    if (load(tune, &same, &why)) {
        if (same) tell(tune, MAL_RESUMED, NULL);
        return true;
    }
    if (why.status == MAL_NO_MEMORY || why.status == MAL_DEVICE) {
        *err = why;
        return false;
    }
    if (why.status != MAL_NOT_FOUND) tell(tune, MAL_RESUME_UNREAD, &why);
    return begin_anew(tune, err);
}
