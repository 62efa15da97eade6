/* tune_state.c - a fine-tuning in one safetensors file: of each tensor the shift and
 * Adam's moments, and the position. */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/clock.h"
#include "core/editor/resume.h"
#include "core/editor/tune_impl.h"
#include "core/file.h"

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
static bool hash_work(struct mal_tune *tune, struct mal_error *err) {
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
    mal_hash_hex(&hash, tune->work);
    mal_hasher_destroy(hasher);
    return true;
}

static void tell(const struct mal_tune *tune, enum mal_resume_event what,
                 const struct mal_error *why) {
    const struct mal_resume *resume = tune->task->resume;
    if (resume->tell)
        resume->tell(resume->arg, what, mal_tune_done(tune), tune->total, why);
}

/* ---- Writing ---- */

static bool list_items(const struct mal_tune *tune, struct mal_state *out,
                       struct mal_error *err) {
    *out = (struct mal_state){.be = tune->draft.be};
    for (size_t i = 0; i < tune->draft.n; i++) {
        const struct mal_draft_tensor *t = &tune->draft.tensors[i];
        const char *name = t->lin->name;
        int64_t n = (int64_t)mal_tune_elements(tune, i);
        if (!mal_state_add_device(out, "shift.", name, t->shift, n, false, err) ||
            !mal_state_add_device(out, "adam.m.", name, tune->mean[i], n, false, err) ||
            !mal_state_add_device(out, "adam.v.", name, tune->square[i], n, true, err))
            return false;
    }
    return true;
}

static bool save(const struct mal_tune *tune, struct mal_error *err) {
    const struct mal_resume *resume = tune->task->resume;
    const struct mal_tune_position *p = &tune->now;
    struct mal_state state;
    char pass[NUMBER], at[NUMBER], steps[NUMBER], sum[NUMBER], first[NUMBER];
    snprintf(pass, sizeof pass, "%" PRId64, p->pass);
    snprintf(at, sizeof at, "%zu", p->at);
    snprintf(steps, sizeof steps, "%" PRId64, p->steps);
    snprintf(sum, sizeof sum, "%a", p->sum);
    snprintf(first, sizeof first, "%a", p->first);
    const struct mal_st_meta metadata[] = {{"work", tune->work}, {"pass", pass},
                                           {"at", at},           {"steps", steps},
                                           {"sum", sum},         {"first", first}};
    bool ok = list_items(tune, &state, err) &&
              mal_state_write(&state, resume->path, &mal_resume_kind, resume->run,
                              metadata, sizeof metadata / sizeof *metadata, err);
    mal_state_finish(&state);
    return ok;
}

void mal_tune_save(struct mal_tune *tune, bool now) {
    const struct mal_resume *resume = tune->task->resume;
    struct mal_error why = {0};
    double begin = mal_clock_seconds(), since = begin - tune->saved_at;
    if (!resume || mal_tune_done(tune) == tune->saved) return;
    if (!now && (since < resume->seconds || since < SHARE * tune->save_seconds)) return;
    bool ok = save(tune, &why);
    tune->saved = mal_tune_done(tune);
    tune->saved_at = mal_clock_seconds();
    tune->save_seconds = tune->saved_at - begin;
    tell(tune, ok ? MAL_RESUME_SAVED : MAL_RESUME_UNSAVED, &why);
}

/* ---- Reading ---- */

static bool read_loss(const struct mal_safetensors *file, const char *key, double *out,
                      struct mal_error *err) {
    if (!mal_state_real(file, key, out, err)) return false;
    return isfinite(*out) ||
           mal_fail(err, MAL_CORRUPT, "%s: metadata '%s' is %g",
                    mal_file_shown(mal_safetensors_path(file)), key, *out);
}

static bool read_position(const struct mal_safetensors *file, const struct mal_tune *tune,
                          struct mal_tune_position *out, struct mal_error *err) {
    const struct mal_tune_way *way = tune->way;
    int64_t n = (int64_t)tune->n_texts, at;
    struct mal_tune_position p = {0};
    if (!mal_state_count(file, "pass", way->n_passes - 1, &p.pass, err) ||
        !mal_state_count(file, "at", n - 1, &at, err) ||
        !mal_state_count(file, "steps", tune->total, &p.steps, err) ||
        !read_loss(file, "sum", &p.sum, err) || !read_loss(file, "first", &p.first, err))
        return false;
    if (at % (int64_t)way->batch) {
        return mal_fail(err, MAL_CORRUPT, "%s: metadata 'at' is in a mini-batch",
                        mal_file_shown(mal_safetensors_path(file)));
    }
    p.at = (size_t)at;
    *out = p;
    return true;
}

static bool is_same(const struct mal_tune *tune, const struct mal_safetensors *file,
                    bool *out, struct mal_error *err) {
    const char *run, *work;
    if (!mal_state_text(file, "run", &run, err) ||
        !mal_state_text(file, "work", &work, err))
        return false;
    *out = !strcmp(run, tune->task->resume->run) && !strcmp(work, tune->work);
    return true;
}

static bool take_over(struct mal_tune *tune, const struct mal_safetensors *file,
                      struct mal_error *err) {
    struct mal_state state;
    struct mal_tune_position position;
    bool ok = list_items(tune, &state, err) &&
              read_position(file, tune, &position, err) &&
              mal_state_read(&state, file, err);
    mal_state_finish(&state);
    if (!ok) return false;
    for (size_t i = 0; position.steps > 0 && i < tune->draft.n; i++)
        mal_draft_round(&tune->draft, i);
    tune->now = position;
    tune->saved = mal_tune_done(tune);
    return mal_backend_sync(tune->draft.be, err);
}

/* *out_same false: the file is another edit's. */
static bool load(struct mal_tune *tune, bool *out_same, struct mal_error *err) {
    struct mal_safetensors *file;
    *out_same = false;
    if (!mal_state_open(&file, tune->task->resume->path, &mal_resume_kind, err))
        return false;
    bool ok =
        is_same(tune, file, out_same, err) && (!*out_same || take_over(tune, file, err));
    mal_safetensors_close(file);
    return ok;
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
    if (!hash_work(tune, err)) return false;
    if (load(tune, &same, &why)) {
        if (same) tell(tune, MAL_RESUMED, NULL);
        return true;
    }
    if (why.status == MAL_NO_MEMORY || why.status == MAL_DEVICE) {
        *err = why;
        return false;
    }
    if (why.status == MAL_NOT_FOUND) return true;
    tell(tune, MAL_RESUME_UNREAD, &why);
    return begin_anew(tune, err);
}
