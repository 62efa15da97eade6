/* shift.c - from rows to a module's shift, and from the gradient at the shift to those of
 * the editor's parameters (core/README.md section 8, steps 2, 4 and 5). Where the
 * network's activations of all rows would take much memory, its forward pass is made
 * again for its backward pass. */
#include <math.h>

#include "core/editor/solve_grad.h"
#include "core/train/trainer_impl.h"

struct slice {
    int64_t row, n;
    const float *u, *g;
};

static bool next_slice(const struct mal_train_run *run, size_t m, struct slice *slice) {
    const struct mal_linear *lin = mal_model_edit(run->t->model, m);
    slice->row += slice->n;
    int64_t left = mal_edit_rows_n(&run->rows, m) - slice->row,
            most = run->t->o.editor_batch;
    slice->n = left < most ? left : most;
    slice->u = run->rows.u[m] + slice->row * lin->d_in;
    slice->g = run->rows.g[m] + slice->row * lin->d_out;
    return slice->n > 0;
}

static const struct mal_editor_shape *shape_of(const struct mal_trainer *t, size_t m) {
    return &t->editor->shapes[t->editor->modules[m].shape];
}

static float lr_of(const struct mal_trainer *t, size_t m) {
    return shape_of(t, m)->lr[t->editor->modules[m].row];
}

static struct mal_solve solve_of(const struct mal_train_run *run, size_t m) {
    struct mal_trainer *t = run->t;
    const struct mal_editor_shape *shape = shape_of(t, m);
    size_t row = t->editor->modules[m].row;
    struct mal_solve solve = {.module = mal_model_edit(t->model, m)->name,
                              .n = mal_edit_rows_n(&run->rows, m),
                              .d_in = shape->d_in,
                              .d_out = shape->d_out,
                              .u = run->rows.u[m],
                              .d = run->d[m],
                              .ridge = exp((double)shape->lamda[row]),
                              .scratch = mal_model_scratch(t->model)};
    if (t->o.preserve) {
        solve.preserve_gram = t->o.preserve->gram[m];
        solve.preserve_weight = exp((double)shape->preserve[row]);
    }
    return solve;
}

/* ---- Forward ---- */

/* u_hat, g_hat of a slice; its tape is kept where there is room for all. */
static const float *net_fwd(struct mal_train_run *run, size_t m, const struct slice *s) {
    struct mal_trainer *t = run->t;
    const struct mal_editor_module *module = &t->editor->modules[m];
    struct mal_hypernet *net = t->nets[module->shape];
    if (run->keeps) {
        mal_hypernet_fwd_taped(net, module->row, s->n, s->u, s->g, &t->net_scratch,
                               &run->tapes[m]);
        return run->tapes[m].out;
    }
    mal_arena_reset(&t->net_scratch, run->net_mark);
    return mal_hypernet_fwd(net, module->row, s->n, s->u, s->g, &t->net_scratch);
}

static bool malmen_shift(struct mal_train_run *run, size_t m, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    const struct mal_editor_shape *shape = shape_of(t, m);
    for (struct slice s = {0}; next_slice(run, m, &s);) {
        const float *h = net_fwd(run, m, &s);
        mal_edit_diffs(t->be, s.n, shape->d_in, shape->d_out, lr_of(t, m), s.u, 0, h,
                       shape->size, h + shape->d_in, shape->size,
                       run->d[m] + s.row * shape->d_out, 0);
    }
    struct mal_solve solve = solve_of(run, m);
    return mal_solve_shift(t->be, &solve, t->shift, err);
}

/* S = -lr U_hat' G_hat, summed in fp64 */
static bool mend_shift(struct mal_train_run *run, size_t m, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    const struct mal_editor_shape *shape = shape_of(t, m);
    struct mal_arena *scratch = mal_model_scratch(t->model);
    int64_t n = shape->d_in * shape->d_out;
    if (!mal_arena_reserve(scratch, (size_t)n * sizeof(double), err)) return false;
    mal_arena_reset(scratch, 0);
    double *sum = mal_arena_alloc(scratch, (size_t)n * sizeof *sum);
    for (struct slice s = {0}; next_slice(run, m, &s);) {
        const float *h = net_fwd(run, m, &s);
        mal_gemm64(t->be, &(struct mal_gemm64){.m = shape->d_in,
                                               .n = shape->d_out,
                                               .k = s.n,
                                               .a = h,
                                               .a_dtype = MAL_F32,
                                               .lda = shape->size,
                                               .trans_a = true,
                                               .b = h + shape->d_in,
                                               .b_dtype = MAL_F32,
                                               .ldb = shape->size,
                                               .c = sum,
                                               .alpha = -(double)lr_of(t, m),
                                               .beta = s.row > 0});
    }
    mal_convert(t->be, n, t->shift, MAL_F32, sum, MAL_F64);
    return mal_backend_sync(t->be, err);
}

bool mal_train_shift(struct mal_train_run *run, size_t m, struct mal_error *err) {
    bool mend = !run->t->editor->method->solves;
    return mal_train_tick(run, err) &&
           (mend ? mend_shift(run, m, err) : malmen_shift(run, m, err));
}

/* ---- Backward ---- */

static void set_grad(struct mal_trainer *t, const float *rows, size_t row, double value) {
    float grad = (float)value;
    struct mal_train_param *param = mal_train_param_of(&t->params, rows);
    mal_backend_upload(t->be, param->g + row, &grad, sizeof grad);
}

/* run->dh := gradient at the network's output, t->dlr[0] := the step's derivative. */
static void malmen_output_bwd(struct mal_train_run *run, size_t m, const struct slice *s,
                              const struct mal_hypernet_tape *tape) {
    struct mal_trainer *t = run->t;
    const struct mal_editor_shape *shape = shape_of(t, m);
    struct mal_edit_diffs_bwd bwd = {.n = s->n,
                                     .da = shape->d_in,
                                     .dc = shape->d_out,
                                     .lr = lr_of(t, m),
                                     .a = s->u,
                                     .b = tape->out,
                                     .ldb = shape->size,
                                     .c = tape->out + shape->d_in,
                                     .ldc = shape->size,
                                     .e = run->e + s->row * shape->d_out,
                                     .grad_b = run->dh,
                                     .grad_c = run->dh + shape->d_in,
                                     .ld_grad = shape->size,
                                     .dlr = t->dlr};
    mal_edit_diffs_bwd(t->be, &bwd);
}

/* With M = dL/dS: dU_hat = -lr G_hat M', dG_hat = -lr U_hat M, dlr = -<U_hat M, G_hat>.
 */
static void mend_output_bwd(struct mal_train_run *run, size_t m, const struct slice *s,
                            const struct mal_hypernet_tape *tape) {
    struct mal_trainer *t = run->t;
    const struct mal_editor_shape *shape = shape_of(t, m);
    int64_t d_in = shape->d_in, d_out = shape->d_out, size = shape->size;
    float *p = run->e + s->row * d_out;
    struct mal_gemm product = {.m = s->n,
                               .n = d_out,
                               .k = d_in,
                               .a = tape->out,
                               .lda = size,
                               .b = t->dw[m],
                               .b_dtype = MAL_F32,
                               .c = p,
                               .alpha = -1};
    mal_gemm(t->be, &product);
    mal_dot(t->be, s->n, d_out, p, MAL_F32, 0, tape->out + d_in, MAL_F32, size, t->dlr);
    product.c = run->dh + d_in;
    product.ldc = size;
    product.alpha = -lr_of(t, m);
    mal_gemm(t->be, &product);
    mal_gemm(t->be, &(struct mal_gemm){.m = s->n,
                                       .n = d_in,
                                       .k = d_out,
                                       .a = tape->out + d_in,
                                       .lda = size,
                                       .b = t->dw[m],
                                       .b_dtype = MAL_F32,
                                       .trans_b = true,
                                       .c = run->dh,
                                       .ldc = size,
                                       .alpha = -lr_of(t, m)});
}

/* run->e := dL/dD, and the derivatives of what the solve weighs with. */
static bool solve_bwd(struct mal_train_run *run, size_t m, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    const struct mal_editor_shape *shape = shape_of(t, m);
    size_t row = t->editor->modules[m].row;
    struct mal_solve solve = solve_of(run, m);
    double d_lamda = 0, d_preserve = 0;
    if (!mal_solve_bwd(t->be, &solve, t->dw[m], run->e, &d_lamda, &d_preserve, err))
        return false;
    set_grad(t, shape->lamda, row, d_lamda);
    if (t->o.preserve) set_grad(t, shape->preserve, row, d_preserve);
    return true;
}

bool mal_train_shift_bwd(struct mal_train_run *run, size_t m, struct mal_error *err) {
    struct mal_trainer *t = run->t;
    const struct mal_editor_module *module = &t->editor->modules[m];
    bool mend = !t->editor->method->solves;
    double dlr = 0;
    if (!mal_train_tick(run, err) || (!mend && !solve_bwd(run, m, err))) return false;
    for (struct slice s = {0}; next_slice(run, m, &s);) {
        struct mal_hypernet_tape *tape = &run->tapes[m];
        double part = 0;
        mal_backend_zero(t->be, t->dlr, sizeof part);
        if (!run->keeps) {
            mal_arena_reset(&t->net_scratch, run->net_mark);
            mal_hypernet_fwd_taped(t->nets[module->shape], module->row, s.n, s.u, s.g,
                                   &t->net_scratch, tape);
        }
        if (mend) {
            mend_output_bwd(run, m, &s, tape);
        } else {
            malmen_output_bwd(run, m, &s, tape);
        }
        mal_hypernet_bwd(t->nets[module->shape], module->row, tape, run->dh,
                         t->grads[module->shape]);
        mal_backend_download(t->be, &part, t->dlr, sizeof part);
        if (!mal_backend_sync(t->be, err) || !mal_train_tick(run, err)) return false;
        dlr += part;
    }
    set_grad(t, shape_of(t, m)->lr, module->row, dlr);
    return true;
}
