/* params.c - what the optimiser works on. */
#include "core/train/params.h"

#include <assert.h>
#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/editor_impl.h"

static const double BETA1 = 0.9, BETA2 = 0.999, EPS = 1e-8; /* the paper's, PyTorch's */

static bool is_trained(size_t i) {
    return i >= MAL_N_NORM; /* the statistics come first */
}

static size_t count(const struct mal_editor *editor) {
    return editor->n_shapes * (mal_editor_n_tensors(editor) - MAL_N_NORM);
}

static int64_t elements(const struct mal_editor_tensor *t) {
    return t->n_dims == 2 ? t->dims[0] * t->dims[1] : t->dims[0];
}

static void fill_list(struct mal_train_param *list, const struct mal_editor *editor) {
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape *shape = &editor->shapes[s];
        for (size_t i = 0; i < mal_editor_n_tensors(editor); i++) {
            struct mal_editor_tensor t;
            if (!is_trained(i)) continue;
            mal_editor_tensor_at(editor, shape, i, &t);
            *list = (struct mal_train_param){
                .host = t.data, .n = elements(&t), .is_lr = t.data == shape->lr};
            memcpy(list->name, t.name, sizeof list->name);
            list++;
        }
    }
}

static void place(struct mal_train_params *params, struct mal_arena *arena,
                  bool on_host) {
    for (size_t i = 0; i < params->n; i++) {
        struct mal_train_param *param = &params->list[i];
        param->g = mal_arena_floats(arena, param->n);
        param->m = mal_arena_floats(arena, param->n);
        param->v = mal_arena_floats(arena, param->n);
        param->p = on_host ? param->host : mal_arena_floats(arena, param->n);
    }
    params->sums = mal_arena_alloc(arena, params->n * sizeof *params->sums);
}

size_t mal_train_params_bytes(const struct mal_editor *editor,
                              const struct mal_backend *be) {
    size_t floats = 0, arrays = mal_backend_on_host(be) ? 3 : 4;
    for (size_t s = 0; s < editor->n_shapes; s++) {
        for (size_t i = 0; i < mal_editor_n_tensors(editor); i++) {
            struct mal_editor_tensor t;
            mal_editor_tensor_at(editor, &editor->shapes[s], i, &t);
            if (is_trained(i)) floats += arrays * ((size_t)elements(&t) + 16);
        }
    }
    return floats * sizeof(float) + (count(editor) + 8) * sizeof(double);
}

bool mal_train_params_init(struct mal_train_params *params, struct mal_editor *editor,
                           struct mal_backend *be, struct mal_error *err) {
    *params = (struct mal_train_params){.be = be, .n = count(editor)};
    bool on_host = mal_backend_on_host(be);
    params->list = mal_calloc(params->n, sizeof *params->list);
    if (!params->list) return mal_fail(err, MAL_NO_MEMORY, "parameters");
    fill_list(params->list, editor);

    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    place(params, &counting, on_host);
    if (!mal_arena_init(&params->arena, be, counting.peak, err)) {
        mal_train_params_finish(params);
        return mal_fail_wrap(err, "gradients and moments of the editor");
    }
    place(params, &params->arena, on_host);
    for (size_t i = 0; i < params->n; i++) {
        struct mal_train_param *param = &params->list[i];
        mal_backend_zero(be, param->m, (size_t)param->n * sizeof(float));
        mal_backend_zero(be, param->v, (size_t)param->n * sizeof(float));
    }
    mal_train_params_push(params);
    return mal_backend_sync(be, err);
}

void mal_train_params_finish(struct mal_train_params *params) {
    mal_arena_finish(&params->arena);
    mal_free(params->list);
    *params = (struct mal_train_params){0};
}

struct mal_train_param *mal_train_param_of(const struct mal_train_params *params,
                                           const float *host) {
    for (size_t i = 0; i < params->n; i++) {
        if (params->list[i].host == host) return &params->list[i];
    }
    assert(!"an array of the editor in training");
    return NULL;
}

void mal_train_params_zero_grads(struct mal_train_params *params) {
    for (size_t i = 0; i < params->n; i++) {
        mal_backend_zero(params->be, params->list[i].g,
                         (size_t)params->list[i].n * sizeof(float));
    }
}

bool mal_train_params_norm(struct mal_train_params *params, double *out,
                           struct mal_error *err) {
    double *sums = mal_calloc(params->n, sizeof *sums), total = 0;
    if (!sums) return mal_fail(err, MAL_NO_MEMORY, "gradients");
    for (size_t i = 0; i < params->n; i++) {
        mal_sum_squares(params->be, params->list[i].n, params->list[i].g,
                        params->sums + i);
    }
    mal_backend_download(params->be, sums, params->sums, params->n * sizeof *sums);
    bool ok = mal_backend_sync(params->be, err);
    for (size_t i = 0; i < params->n; i++)
        total += sums[i];
    mal_free(sums);
    *out = sqrt(total);
    return ok;
}

void mal_train_params_step(struct mal_train_params *params, double rate, double lr_rate,
                           double grad_scale, int64_t t) {
    for (size_t i = 0; i < params->n; i++) {
        struct mal_train_param *param = &params->list[i];
        mal_adam_step(params->be, &(struct mal_adam){.n = param->n,
                                                     .p = param->p,
                                                     .m = param->m,
                                                     .v = param->v,
                                                     .g = param->g,
                                                     .lr = param->is_lr ? lr_rate : rate,
                                                     .beta1 = BETA1,
                                                     .beta2 = BETA2,
                                                     .eps = EPS,
                                                     .grad_scale = grad_scale,
                                                     .t = t});
    }
}

bool mal_train_params_fetch(struct mal_train_params *params, struct mal_error *err) {
    for (size_t i = 0; i < params->n; i++) {
        struct mal_train_param *param = &params->list[i];
        if (param->p == param->host) continue;
        mal_backend_download(params->be, param->host, param->p,
                             (size_t)param->n * sizeof(float));
    }
    return mal_backend_sync(params->be, err);
}

void mal_train_params_push(struct mal_train_params *params) {
    for (size_t i = 0; i < params->n; i++) {
        struct mal_train_param *param = &params->list[i];
        if (param->p == param->host) continue;
        mal_backend_upload(params->be, param->p, param->host,
                           (size_t)param->n * sizeof(float));
    }
}
