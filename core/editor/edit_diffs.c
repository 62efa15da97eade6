/* edit_diffs.c - value differences of rows, a slice of rows at a time. */
#include "core/editor/edit_diffs.h"

#include <string.h>

#include "core/alloc.h"
#include "core/arena.h"
#include "core/clock.h"
#include "core/editor/hypernet.h"

enum { NET_ROWS = 1024 }; /* of one slice of the network, times the device's breadth */

struct mal_edit_diffs {
    const struct mal_editor *editor;
    struct mal_backend *be;
    struct mal_hypernet **nets; /* per shape */
    struct mal_arena scratch;
    int64_t rows;               /* of one slice */
    bool untrained;             /* no blocks */
    float *steps;               /* (n_modules) owned */
    struct mal_normalizer *own; /* (n_shapes) statistics of the identity network */
};

/* The untrained form does not centre gradients. */
static bool take_norm(struct mal_edit_diffs *diffs, size_t s,
                      struct mal_editor_shape *shape, struct mal_error *err) {
    struct mal_normalizer *own = &diffs->own[s];
    if (!mal_normalizer_copy(own, &shape->norm, err)) return false;
    if (diffs->untrained)
        memset(own->mean + shape->d_in, 0, (size_t)shape->d_out * sizeof *own->mean);
    mal_normalizer_lift(own, shape->d_in);
    shape->norm = *own;
    return true;
}

static bool open_net(struct mal_edit_diffs *diffs, const struct mal_normalizer *norms,
                     size_t s, struct mal_error *err) {
    const struct mal_editor *editor = diffs->editor;
    struct mal_editor_shape shape = editor->shapes[s];
    if (norms) shape.norm = norms[s];
    int64_t n_blocks = diffs->untrained ? 0 : editor->n_blocks;
    bool running = editor->method->running; /* a batch it edits is in them */
    bool own = diffs->untrained || (n_blocks == 0 && !running);
    if (own && !take_norm(diffs, s, &shape, err)) return false;
    return mal_hypernet_create(&diffs->nets[s], &shape, editor->rank, n_blocks, diffs->be,
                               err);
}

static bool open_nets(struct mal_edit_diffs *diffs, const struct mal_normalizer *norms,
                      struct mal_error *err) {
    const struct mal_editor *editor = diffs->editor;
    size_t scratch = 0;
    diffs->nets = mal_calloc(editor->n_shapes, sizeof *diffs->nets);
    diffs->own = mal_calloc(editor->n_shapes, sizeof *diffs->own);
    if (!diffs->nets || !diffs->own) return mal_fail(err, MAL_NO_MEMORY, "networks");
    for (size_t s = 0; s < editor->n_shapes; s++) {
        if (!open_net(diffs, norms, s, err)) return false;
        size_t bytes = mal_hypernet_scratch_bytes(diffs->nets[s], diffs->rows);
        if (bytes > scratch) scratch = bytes;
    }
    return mal_arena_init(&diffs->scratch, diffs->be, scratch, err) &&
           mal_backend_sync(diffs->be, err);
}

static bool take_steps(struct mal_edit_diffs *diffs, const float *steps,
                       struct mal_error *err) {
    const struct mal_editor *editor = diffs->editor;
    diffs->steps = mal_calloc(editor->n_modules, sizeof *diffs->steps);
    if (!diffs->steps) return mal_fail(err, MAL_NO_MEMORY, "networks");
    for (size_t m = 0; m < editor->n_modules; m++)
        diffs->steps[m] = steps ? steps[m] : mal_editor_step(editor, m);
    return true;
}

static bool create(struct mal_edit_diffs **out, const struct mal_edit_diffs *what,
                   const struct mal_normalizer *norms, const float *steps,
                   struct mal_error *err) {
    struct mal_edit_diffs *diffs = mal_calloc(1, sizeof *diffs);
    if (!diffs) return mal_fail(err, MAL_NO_MEMORY, "networks");
    *diffs = *what;
    diffs->rows = NET_ROWS * mal_backend_breadth(diffs->be);
    if (!take_steps(diffs, steps, err) || !open_nets(diffs, norms, err)) {
        mal_edit_diffs_destroy(diffs);
        return false;
    }
    *out = diffs;
    return true;
}

bool mal_edit_diffs_create(struct mal_edit_diffs **out, const struct mal_editor *editor,
                           const struct mal_normalizer *norms, struct mal_backend *be,
                           struct mal_error *err) {
    struct mal_edit_diffs what = {.editor = editor, .be = be};
    return create(out, &what, norms, NULL, err);
}

bool mal_edit_diffs_create_untrained(struct mal_edit_diffs **out,
                                     const struct mal_editor *editor,
                                     const struct mal_normalizer *norms,
                                     const float *steps, struct mal_backend *be,
                                     struct mal_error *err) {
    struct mal_edit_diffs what = {.editor = editor, .be = be, .untrained = true};
    return create(out, &what, norms, steps, err);
}

void mal_edit_diffs_destroy(struct mal_edit_diffs *diffs) {
    if (!diffs) return;
    mal_arena_finish(&diffs->scratch);
    for (size_t s = 0; diffs->nets && s < diffs->editor->n_shapes; s++)
        mal_hypernet_destroy(diffs->nets[s]);
    mal_norms_free(diffs->own, diffs->editor->n_shapes);
    mal_free(diffs->nets);
    mal_free(diffs->steps);
    mal_free(diffs);
}

static void net_slice(struct mal_edit_diffs *diffs, struct mal_edit_rows *rows, size_t m,
                      int64_t row, int64_t n) {
    const struct mal_editor *editor = diffs->editor;
    const struct mal_editor_module *module = &editor->modules[m];
    const struct mal_editor_shape *shape = &editor->shapes[module->shape];
    int64_t d_in = shape->d_in, d_out = shape->d_out, size = shape->size;
    float *u = rows->u[m] + row * d_in, *g = rows->g[m] + row * d_out;

    mal_arena_reset(&diffs->scratch, 0);
    const float *h = mal_hypernet_fwd(diffs->nets[module->shape], module->row, n, u, g,
                                      &diffs->scratch);
    if (!editor->method->solves) {
        mal_gather_rows(diffs->be, n, d_in, NULL, h, size, u, d_in);
        mal_gather_rows(diffs->be, n, d_out, NULL, h + d_in, size, g, d_out);
        return;
    }
    bool normal = editor->method->normal_keys;
    mal_edit_diffs(diffs->be, n, d_in, d_out, diffs->steps[m], normal ? h : u,
                   normal ? size : d_in, h, size, h + d_in, size, g, d_out);
}

bool mal_edit_diffs_run(struct mal_edit_diffs *diffs, struct mal_edit_rows *rows,
                        size_t m, struct mal_error *err) {
    double begin = mal_clock_seconds();
    int64_t n_rows = mal_edit_rows_n(rows, m), before = 0, total = 0;
    for (size_t i = 0; i < rows->n_modules; i++) {
        if (i < m) before += mal_edit_rows_n(rows, i);
        total += mal_edit_rows_n(rows, i);
    }
    mal_progress_observe(rows->progress, MAL_OBSERVED_KEYS, m, n_rows, rows->u[m]);
    mal_progress_observe(rows->progress, MAL_OBSERVED_GRADIENTS, m, n_rows, rows->g[m]);
    for (int64_t row = 0; row < n_rows; row += diffs->rows) {
        int64_t n = n_rows - row < diffs->rows ? n_rows - row : diffs->rows;
        net_slice(diffs, rows, m, row, n);
        if (!mal_backend_sync(diffs->be, err)) return false;
        if (!mal_progress_step(rows->progress, MAL_STAGE_HYPERNET, before + row + n,
                               total, err)) {
            return false;
        }
    }
    if (diffs->editor->method->solves) {
        mal_progress_observe(rows->progress, MAL_OBSERVED_DIFFERENCES, m, n_rows,
                             rows->g[m]);
    }
    rows->report->seconds[MAL_STAGE_HYPERNET] += mal_clock_seconds() - begin;
    return true;
}
