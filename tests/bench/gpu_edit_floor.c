/* gpu_edit_floor.c - the least time of each stage of an edit: operations over the rate of
 * the unit that does them, or bytes over the memory's, whichever is more. */
#include "core/delta.h"
#include "core/editor/progress.h"
#include "gpu_edit.h"

struct sizes {
    double c, f, v, layers, edits;
    double rows, tokens;  /* edit rows of a module, tokens read */
    double block;         /* parameters of a block's products */
    double d_in, d_out;   /* of a module */
    double net;           /* operations of the network for a row */
    bool primal, factors; /* how the solve is made and put out */
};

static struct sizes sizes_of(const struct edit_bench *e, enum edit_form form,
                             const struct mal_edit_report *report) {
    const struct mal_linear *lin = mal_model_edit(e->model, 0);
    struct sizes s = {.c = (double)e->shape.channels,
                      .f = (double)e->shape.inner,
                      .v = (double)e->shape.vocab,
                      .layers = (double)e->shape.layers,
                      .edits = (double)mal_model_n_edits(e->model),
                      .rows = (double)report->n_tokens,
                      .tokens = (double)report->n_input_tokens,
                      .d_in = (double)lin->d_in,
                      .d_out = (double)lin->d_out};
    s.block = 4 * s.c * s.c + 2 * s.c * s.f;
    s.net = 4 * (double)e->blocks * (double)e->rank * (s.d_in + s.d_out);
    s.primal = form == EDIT_JOINT || report->n_tokens >= lin->d_in;
    s.factors = (form == EDIT_JOINT || !s.primal) &&
                mal_delta_factors_pay(lin->d_in, lin->d_out, report->n_tokens);
    return s;
}

static double at_least(const struct edit_bench *e, enum peak unit, double flops,
                       double bytes) {
    struct cost cost = {.flops = flops, .unit = unit, .bytes = bytes};
    return floor_seconds(&e->peaks, &cost);
}

/* All tokens but in the last block, where those that predict go on after the keys. */
static double forward(const struct edit_bench *e, const struct sizes *s) {
    double flops = 2 * s->tokens * s->block * (s->layers - 1) +
                   2 * s->tokens * 2 * s->c * s->c +
                   2 * s->rows * (s->block - 2 * s->c * s->c);
    return at_least(e, e->exact ? PEAK_FP32 : PEAK_BF16, flops, 2 * s->block * s->layers);
}

/* The head both ways, and the blocks above the lowest module. */
static double backward(const struct edit_bench *e, const struct sizes *s) {
    double flops = 4 * s->rows * s->c * s->v + 2 * s->rows * s->block * (s->edits - 1);
    return at_least(e, e->exact ? PEAK_FP32 : PEAK_BF16, flops,
                    2 * (s->c * s->v + s->block * s->edits));
}

static double gram(const struct edit_bench *e, const struct sizes *s) {
    if (!s->primal)
        return at_least(e, PEAK_FP64, s->edits * s->rows * s->rows * s->d_in, 0);
    return at_least(e, PEAK_FP64, s->edits * s->rows * s->d_in * s->d_in,
                    s->edits * (4 * s->rows * s->d_in + 8 * s->d_in * s->d_in));
}

static double solving(const struct edit_bench *e, const struct sizes *s) {
    double n = s->rows, in = s->d_in, out = s->d_out, flops;
    double order = s->primal ? in : n;
    flops = order * order * order / 3;
    if (s->primal && s->factors)
        flops += 2 * n * in * in + 4 * n * n * in + 2 * n * n * out;
    else if (s->primal)
        flops += 2 * n * in * out + 2 * in * in * out;
    else
        flops += 2 * n * n * out +
                 (s->factors ? 4 * n * n * in + 2 * n * n * out : 2 * n * in * out);
    return at_least(e, PEAK_FP64, s->edits * flops,
                    s->primal ? s->edits * 16 * in * in : 0);
}

static double applying(const struct edit_bench *e, const struct sizes *s) {
    double elements = s->d_in * s->d_out;
    double flops = s->factors ? 2 * elements * s->rows : elements;
    return at_least(e, PEAK_FP32, s->edits * flops,
                    s->edits * elements * (s->factors ? 16 : 20));
}

void edit_floors(const struct edit_bench *e, enum edit_form form,
                 const struct mal_edit_report *report, double *least) {
    struct sizes s = sizes_of(e, form, report);
    least[MAL_STAGE_FORWARD] = forward(e, &s);
    least[MAL_STAGE_BACKWARD] = backward(e, &s);
    least[MAL_STAGE_HYPERNET] =
        at_least(e, e->exact ? PEAK_FP32 : PEAK_TF32, s.edits * s.rows * s.net,
                 4 * s.edits * s.rows * (s.d_in + 2 * s.d_out));
    /* in a system of its own that is small, both are one stage */
    bool together = form == EDIT_ALONE && !s.primal;
    least[MAL_STAGE_GRAM] = together ? 0 : gram(e, &s);
    least[MAL_STAGE_SOLVE] = solving(e, &s) + (together ? gram(e, &s) : 0);
    least[MAL_STAGE_APPLY] = applying(e, &s);
    if (form == EDIT_ONCE) return;
    least[MAL_STAGE_VERIFY] =
        forward(e, &s) + at_least(e, e->exact ? PEAK_FP32 : PEAK_BF16,
                                  2 * s.rows * s.c * s.v, 2 * s.c * s.v);
}
