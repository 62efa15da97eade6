/* share.c - one model's weights for the passes of a second thread. */
#include "core/model/model_impl.h"

#include <string.h>

#include "core/alloc.h"

static bool copy_blocks(struct mal_stack *copy, const struct mal_stack *stack,
                        struct mal_error *err) {
    if (stack->n == 0) return true;
    copy->blocks = mal_calloc((size_t)stack->n, sizeof *copy->blocks);
    if (!copy->blocks) return mal_fail(err, MAL_NO_MEMORY, "model blocks");
    memcpy(copy->blocks, stack->blocks, (size_t)stack->n * sizeof *copy->blocks);
    return true;
}

/* Where the copy of `stack` has what the original has at `lin`; NULL: it is not there. */
static struct mal_linear *find_copy(const struct mal_stack *stack,
                                    const struct mal_stack *copy,
                                    const struct mal_linear *lin) {
    const char *begin = (const char *)stack->blocks,
               *end = (const char *)(stack->blocks + stack->n), *at = (const char *)lin;
    if (stack->n == 0 || at < begin || at >= end) return NULL;
    return (struct mal_linear *)((char *)copy->blocks + (at - begin));
}

/* Among what is edited, if it is. */
static void enlist(struct mal_model *model, struct mal_linear *copy) {
    mal_linear_use(copy, copy->w0);
    if (copy->edit >= 0) model->edits[copy->edit] = copy;
}

static bool copy_bias(struct mal_model *model, struct mal_linear *copy,
                      struct mal_error *err) {
    const struct mal_linear *bias = copy->own_bias;
    if (!bias) return true;
    copy->own_bias = mal_malloc(sizeof *bias);
    if (!copy->own_bias) return mal_fail(err, MAL_NO_MEMORY, "linear layers");
    *copy->own_bias = *bias;
    copy->own_bias->bias_of = copy;
    enlist(model, copy->own_bias);
    return true;
}

static bool copy_linears(struct mal_model *model, struct mal_error *err) {
    const struct mal_model *of = model->of;
    model->linears = mal_calloc(of->n_linears, sizeof(struct mal_linear *));
    model->edits = mal_calloc(of->n_edited, sizeof(struct mal_linear *));
    if (!model->linears || !model->edits)
        return mal_fail(err, MAL_NO_MEMORY, "linear layers");
    for (size_t i = 0; i < of->n_linears; i++) {
        const struct mal_linear *lin = of->linears[i];
        struct mal_linear *copy = find_copy(&of->decoder, &model->decoder, lin);
        if (!copy) copy = find_copy(&of->encoder, &model->encoder, lin);
        if (!copy_bias(model, copy, err)) return false;
        enlist(model, copy);
        model->linears[model->n_linears++] = copy;
    }
    return true;
}

bool mal_model_share(struct mal_model **out, const struct mal_model *of,
                     struct mal_backend *be, struct mal_error *err) {
    struct mal_model *model = mal_calloc(1, sizeof *model);
    if (!model) return mal_fail(err, MAL_NO_MEMORY, "model");
    *model = *of;
    model->of = of;
    model->be = be;
    model->scratch = (struct mal_arena){.be = be};
    model->linears = model->edits = NULL;
    model->n_linears = 0;
    model->encoder.blocks = model->decoder.blocks = NULL;
    model->tape = mal_calloc((size_t)model->info.n_layers, sizeof *model->tape);
    bool ok = model->tape || mal_fail(err, MAL_NO_MEMORY, "model");
    ok = ok && copy_blocks(&model->encoder, &of->encoder, err) &&
         copy_blocks(&model->decoder, &of->decoder, err) && copy_linears(model, err);
    if (ok) {
        *out = model;
    } else {
        mal_model_close(model);
    }
    return ok;
}
