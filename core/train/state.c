/* state.c - writes and reads the state of a run. Its tensors are those of the editor's
 * file, and "adam.m.<name>" and "adam.v.<name>" beside each that is trained. */
#include "core/train/state.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "core/editor/editor_impl.h"
#include "core/file.h"
#include "core/state_file.h"
#include "core/train/trainer_impl.h"

static const struct mal_state_kind kind = {"malmend-train-1", "a training"};

enum { NUMBER = 40 };

static const int64_t MOST = INT64_C(1) << 40; /* no run counts further */

static bool list_items(struct mal_trainer *t, struct mal_state *out,
                       struct mal_error *err) {
    *out = (struct mal_state){.be = t->be};
    for (size_t s = 0; s < t->editor->n_shapes; s++) {
        struct mal_editor_shape shape = t->editor->shapes[s];
        for (size_t i = 0; i < MAL_N_NORM; i++) {
            struct mal_editor_tensor tensor;
            mal_editor_tensor_at(t->editor, &shape, i, &tensor);
            struct mal_normalizer *norm = &t->norms[s];
            float *const data[MAL_N_NORM] = {&norm->n, norm->mean, norm->var, norm->std};
            if (!mal_state_add(out, "", tensor.name, data[i], tensor.dims[0],
                               data[i] != norm->mean, err))
                return false;
        }
    }
    for (size_t i = 0; i < t->params.n; i++) {
        const struct mal_train_param *p = &t->params.list[i];
        if (!mal_state_add_device(out, "", p->name, p->p, p->n, false, err) ||
            !mal_state_add_device(out, "adam.m.", p->name, p->m, p->n, false, err) ||
            !mal_state_add_device(out, "adam.v.", p->name, p->v, p->n, true, err))
            return false;
    }
    return true;
}

/* ---- Writing ---- */

enum { VALIDATED = 6, N_COUNTS, N_META = N_COUNTS + 2 };

static const char *const count_names[N_COUNTS] = {
    "step", "epoch", "at", "best_step", "waited", "t", [VALIDATED] = "validated"};

struct metadata {
    char text[N_META][NUMBER];
    struct mal_st_meta entries[N_META];
};

static void make_metadata(const struct mal_trainer *t, const struct mal_train_position *p,
                          struct metadata *out) {
    const int64_t counts[N_COUNTS] = {p->step,   p->epoch, p->at,       p->best_step,
                                      p->waited, t->steps, p->validated};
    for (size_t i = 0; i < N_COUNTS; i++) {
        snprintf(out->text[i], NUMBER, "%" PRId64, counts[i]);
        out->entries[i] = (struct mal_st_meta){count_names[i], out->text[i]};
    }
    snprintf(out->text[N_COUNTS], NUMBER, "%a", p->best);
    snprintf(out->text[N_COUNTS + 1], NUMBER, "%a", p->lr_rate);
    out->entries[N_COUNTS] = (struct mal_st_meta){"best", out->text[N_COUNTS]};
    out->entries[N_COUNTS + 1] = (struct mal_st_meta){"lr_rate", out->text[N_COUNTS + 1]};
}

bool mal_train_state_save(struct mal_trainer *t, const char *path,
                          const struct mal_train_position *position, const char *run,
                          struct mal_error *err) {
    struct mal_state state;
    struct metadata metadata;
    make_metadata(t, position, &metadata);
    bool ok = list_items(t, &state, err) &&
              mal_state_write(&state, path, &kind, run, metadata.entries, N_META, err);
    mal_state_finish(&state);
    return ok;
}

/* ---- Reading ---- */

bool mal_train_state_run(const char *path, char **out, struct mal_error *err) {
    return mal_state_run(path, &kind, out, err);
}

static bool read_position(const struct mal_safetensors *file, struct mal_trainer *t,
                          struct mal_train_position *out, struct mal_error *err) {
    struct mal_train_position p = {0};
    int64_t *const counts[N_COUNTS] = {&p.step,   &p.epoch,  &p.at,       &p.best_step,
                                       &p.waited, &t->steps, &p.validated};
    /* Older files, which do not say, hold steps whose validation was done. */
    size_t n =
        mal_safetensors_metadata(file, count_names[VALIDATED]) ? N_COUNTS : VALIDATED;
    for (size_t i = 0; i < n; i++) {
        if (!mal_state_count(file, count_names[i], MOST, counts[i], err)) return false;
    }
    if (n == VALIDATED) p.validated = p.step;
    if (!mal_state_real(file, "best", &p.best, err) ||
        !mal_state_real(file, "lr_rate", &p.lr_rate, err)) {
        return false;
    }
    if (!isfinite(p.lr_rate) || p.lr_rate < 0) {
        return mal_fail(err, MAL_CORRUPT, "%s: metadata 'lr_rate' is not a rate",
                        mal_file_shown(mal_safetensors_path(file)));
    }
    *out = p;
    return true;
}

bool mal_train_state_load(struct mal_trainer *t, const char *path,
                          struct mal_train_position *out, struct mal_error *err) {
    struct mal_safetensors *file;
    struct mal_state state;
    if (!mal_state_open(&file, path, &kind, err)) return false;
    bool ok = list_items(t, &state, err) && read_position(file, t, out, err) &&
              mal_state_read(&state, file, err) &&
              mal_train_params_fetch(&t->params, err);
    mal_state_finish(&state);
    mal_safetensors_close(file);
    return ok;
}
