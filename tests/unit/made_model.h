/* made_model.h - a model of a few linear layers with random weights: what tests of edited
 * weights need of a model, in every dtype and both orientations, without a checkpoint to
 * open. */
#ifndef MAL_TEST_MADE_MODEL_H
#define MAL_TEST_MADE_MODEL_H

#include "edit_golden.h"

#include "core/model/model_impl.h"

enum { MAX_MADE = 8 };

struct made_model {
    struct mal_model model;
    struct mal_linear linears[MAX_MADE];
    struct mal_linear *list[MAX_MADE];
};

static const struct mal_prefix made_prefixes[] = {{"base.", ""}, {NULL, NULL}};
static const struct mal_arch made_arch = {.model_type = "made",
                                          .prefixes = made_prefixes};

static inline void made_init(struct made_model *made) {
    *made = (struct made_model){0};
    made->model = (struct mal_model){
        .arch = &made_arch, .be = test_backend(), .linears = made->list};
}

/* Weights random in [-1, 1), rounded to dtype; the third is -0. */
static inline struct mal_linear *made_add(struct made_model *made, const char *name,
                                          int64_t d_in, int64_t d_out, bool transposed,
                                          enum mal_dtype dtype) {
    size_t i = made->model.n_linears, n = (size_t)(d_in * d_out);
    assert_true(i < MAX_MADE);
    float *w = random_floats((int64_t)n, 1, 1000 + i);
    void *narrow = mal_malloc(n * mal_dtype_size(dtype));
    if (n > 2) w[2] = -0.0f;
    mal_from_f32(narrow, w, dtype, n);
    mal_to_f32(w, narrow, dtype, n);
    float *w0 = on_device(w, (int64_t)n);
    made->linears[i] = (struct mal_linear){.name = mal_strdup(name),
                                           .d_in = d_in,
                                           .d_out = d_out,
                                           .transposed = transposed,
                                           .dtype = dtype,
                                           .w_dtype = MAL_F32,
                                           .w = w0,
                                           .w0 = w0,
                                           .edit = -1};
    made->list[i] = &made->linears[i];
    made->model.n_linears++;
    mal_free(w);
    mal_free(narrow);
    return made->list[i];
}

static inline void made_edit(struct made_model *made, const char *const *names,
                             size_t n) {
    struct mal_error err = {0};
    assert_ok(mal_model_set_edits(&made->model, names, n, &err), &err);
}

static inline void made_finish(struct made_model *made) {
    for (size_t i = 0; i < made->model.n_linears; i++) {
        free_device(made->linears[i].w0);
        mal_free(made->linears[i].name);
    }
    mal_free(made->model.edits);
}

#endif
