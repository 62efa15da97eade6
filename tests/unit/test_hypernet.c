/* test_hypernet.c - the hyper-network against the formulas in double, and its value
 * differences against the reference's. */
#include "edit_golden.h"

#include <float.h>

#include "core/editor/hypernet.h"
#include "core/editor/resident.h"

/* ---- A net of random parameters ---- */

struct net {
    int64_t d_in, d_out, rank, n_blocks, n_modules;
    struct mal_editor_shape shape;
};

static void net_init(struct net *net, uint64_t seed) {
    struct mal_error err = {0};
    int64_t size = net->d_in + net->d_out;
    net->shape = (struct mal_editor_shape){.d_in = net->d_in,
                                           .d_out = net->d_out,
                                           .size = size,
                                           .n_modules = net->n_modules};
    assert_ok(mal_normalizer_init(&net->shape.norm, size, &err), &err);
    for (int64_t i = 0; i < size; i++) {
        net->shape.norm.mean[i] = next_float(&seed);
        net->shape.norm.std[i] = 1.5f + next_float(&seed);
    }
    net->shape.blocks = mal_calloc((size_t)net->n_blocks, sizeof(struct mal_block));
    for (int64_t i = 0; i < net->n_blocks; i++) {
        struct mal_block *b = &net->shape.blocks[i];
        b->a = random_floats(size * net->rank, 0.5f, seed + 1);
        b->b = random_floats(size * net->rank, 0.5f, seed + 2);
        b->bias = random_floats(size, 0.5f, seed + 3);
        b->scale = random_floats(net->n_modules * size, 1, seed + 4);
        b->shift = random_floats(net->n_modules * size, 0.2f, seed + 5);
        seed += 100;
    }
}

static void net_finish(struct net *net) {
    mal_resident_blocks_destroy(net->shape.resident);
    mal_normalizer_finish(&net->shape.norm);
    for (int64_t i = 0; i < net->n_blocks; i++) {
        struct mal_block *b = &net->shape.blocks[i];
        mal_free(b->a);
        mal_free(b->b);
        mal_free(b->bias);
        mal_free(b->scale);
        mal_free(b->shift);
    }
    mal_free(net->shape.blocks);
}

/* One row through the net in double. */
static void naive_row(const struct net *net, size_t row, const float *u, const float *g,
                      double *h) {
    int64_t size = net->d_in + net->d_out;
    double *hidden = mal_calloc((size_t)net->rank, sizeof *hidden);
    double *z = mal_calloc((size_t)size, sizeof *z);
    for (int64_t i = 0; i < size; i++) {
        double x = (double)(i < net->d_in ? u[i] : g[i - net->d_in]);
        h[i] = (x - (double)net->shape.norm.mean[i]) /
               ((double)net->shape.norm.std[i] + (double)FLT_EPSILON);
    }
    for (int64_t l = 0; l < net->n_blocks; l++) {
        const struct mal_block *b = &net->shape.blocks[l];
        for (int64_t r = 0; r < net->rank; r++) {
            hidden[r] = 0;
            for (int64_t i = 0; i < size; i++)
                hidden[r] += h[i] * (double)b->a[i * net->rank + r];
        }
        for (int64_t i = 0; i < size; i++) {
            z[i] = (double)b->bias[i];
            for (int64_t r = 0; r < net->rank; r++)
                z[i] += hidden[r] * (double)b->b[r * size + i];
            double relu = z[i] > 0 ? z[i] : 0;
            h[i] += (double)b->scale[(int64_t)row * size + i] * relu +
                    (double)b->shift[(int64_t)row * size + i];
        }
    }
    mal_free(hidden);
    mal_free(z);
}

/* ---- Against the formulas ---- */

static size_t statistics_bytes(int64_t size) {
    return 2 * (size_t)(size + 15) / 16 * 16 * sizeof(float);
}

/* `resident`: the blocks are on the device before the network is made. */
static void check_forward_of(struct net net, int64_t rows, bool resident) {
    struct mal_backend *be = test_backend();
    struct mal_error err = {0};
    struct mal_hypernet *hyper;
    struct mal_arena scratch;
    int64_t size = net.d_in + net.d_out;
    net_init(&net, 7);
    if (resident)
        assert_ok(mal_resident_blocks_create(&net.shape.resident, &net.shape, net.rank,
                                             net.n_blocks, be, &err),
                  &err);
    float *u = random_floats(rows * net.d_in, 1, 31),
          *g = random_floats(rows * net.d_out, 1, 32);
    float *u_dev = on_device(u, rows * net.d_in), *g_dev = on_device(g, rows * net.d_out);
    float *got = mal_malloc((size_t)(rows * size) * sizeof *got);
    double *want = mal_malloc((size_t)size * sizeof *want);
    size_t before = mal_backend_bytes(be);
    assert_ok(mal_hypernet_create(&hyper, &net.shape, net.rank, net.n_blocks, be, &err),
              &err);
    if (resident) assert_true(mal_backend_bytes(be) - before <= statistics_bytes(size));
    /* What it says it needs is enough, and all of it is used. */
    size_t bytes = mal_hypernet_scratch_bytes(hyper, rows);
    assert_ok(mal_arena_init(&scratch, be, bytes, &err), &err);
    for (size_t row = 0; row < (size_t)net.n_modules; row++) {
        float *h = mal_hypernet_fwd(hyper, row, rows, u_dev, g_dev, &scratch);
        from_device(got, h, rows * size);
        assert_int_equal(scratch.peak, bytes);
        for (int64_t j = 0; j < rows; j++) {
            naive_row(&net, row, u + j * net.d_in, g + j * net.d_out, want);
            for (int64_t i = 0; i < size; i++) {
                double d = fabs((double)got[j * size + i] - want[i]);
                if (!(d <= 2e-5 * (1 + fabs(want[i])))) {
                    fail_msg("(%lld, %lld) module %zu row %lld column %lld: %g, not %g",
                             (long long)net.d_in, (long long)net.d_out, row, (long long)j,
                             (long long)i, (double)got[j * size + i], want[i]);
                }
            }
        }
        mal_arena_reset(&scratch, 0);
    }
    mal_arena_finish(&scratch);
    mal_hypernet_destroy(hyper);
    free_device(u_dev);
    free_device(g_dev);
    mal_free(u);
    mal_free(g);
    mal_free(got);
    mal_free(want);
    net_finish(&net);
}

static void check_forward(struct net net, int64_t rows) {
    check_forward_of(net, rows, false);
    if (!mal_backend_on_host(test_backend())) check_forward_of(net, rows, true);
}

static void test_forward(void **state) {
    check_forward(
        (struct net){.d_in = 5, .d_out = 3, .rank = 2, .n_blocks = 2, .n_modules = 3}, 4);
    check_forward(
        (struct net){.d_in = 1, .d_out = 1, .rank = 1, .n_blocks = 1, .n_modules = 1}, 1);
    check_forward(
        (struct net){.d_in = 33, .d_out = 65, .rank = 24, .n_blocks = 2, .n_modules = 2},
        67);
    check_forward(
        (struct net){.d_in = 8, .d_out = 4, .rank = 3, .n_blocks = 4, .n_modules = 2}, 9);
}

/* UltraEdit has no net: the normalised rows. */
static void test_no_blocks(void **state) {
    check_forward((struct net){.d_in = 6, .d_out = 5, .n_blocks = 0, .n_modules = 2}, 8);
}

/* Every allocation fails once; nothing is left behind. */
static void test_no_memory(void **state) {
    struct net net = {.d_in = 4, .d_out = 2, .rank = 2, .n_blocks = 2, .n_modules = 1};
    net_init(&net, 3);
    for (long n = 1; n < 20; n++) {
        struct mal_error err = {0};
        struct mal_hypernet *hyper;
        mal_alloc_fail_at(n);
        bool ok = mal_hypernet_create(&hyper, &net.shape, net.rank, net.n_blocks,
                                      test_backend(), &err);
        mal_alloc_fail_at(0);
        if (ok) {
            mal_hypernet_destroy(hyper);
            assert_true(n > 2);
            break;
        }
        assert_int_equal(err.status, MAL_NO_MEMORY);
    }
    net_finish(&net);
}

/* Each allocation of an editor's blocks fails once: what there is by then is the
 * editor's, and a second call makes the rest. */
static void test_editor_resident(void **state) {
    struct golden g;
    struct mal_error err = {0};
    size_t before = mal_backend_bytes(test_backend());
    const char *case_name = edit_cases[0];
    assert_true(golden_open(&g, case_name) && g.editor->n_blocks > 0);
    bool ok = false;
    for (long n = 1; !ok; n++) {
        err = (struct mal_error){0};
        mal_alloc_fail_at(n);
        ok = mal_editor_make_resident(g.editor, test_backend(), &err);
        mal_alloc_fail_at(0);
        assert_true(ok || err.status == MAL_NO_MEMORY);
    }
    for (size_t s = 0; s < g.editor->n_shapes; s++)
        assert_int_equal(!g.editor->shapes[s].resident,
                         mal_backend_on_host(test_backend()));
    golden_close(&g);
    assert_int_equal(mal_backend_bytes(test_backend()), before);
}

/* ---- Against the reference ---- */

static void check_diffs(const struct golden *g, size_t batch, size_t m) {
    struct mal_backend *be = test_backend();
    struct mal_error err = {0};
    struct golden_rows r = golden_rows(g, batch, m);
    struct mal_normalizer norm;
    struct mal_editor_shape shape = golden_shape(g, batch, r.shape, &norm);
    struct mal_hypernet *hyper;
    struct mal_arena scratch;
    bool ultra = g->editor->method == &mal_method_ultraedit;
    float lr = ultra ? (float)g->editor->lr : shape.lr[r.row];
    int64_t n = r.n * r.d_out;
    assert_ok(mal_hypernet_create(&hyper, &shape, g->editor->rank, g->editor->n_blocks,
                                  be, &err),
              &err);
    assert_ok(mal_arena_init(&scratch, be, mal_hypernet_scratch_bytes(hyper, r.n), &err),
              &err);
    float *h = mal_hypernet_fwd(hyper, r.row, r.n, r.u, r.g, &scratch);
    float *d = on_device(NULL, n), *got = mal_malloc((size_t)n * sizeof *got);
    /* UltraEdit: -lr <u_hat, u_hat> g_hat; MALMEN: -lr <u, u_hat> g_hat. */
    mal_edit_diffs(be, r.n, r.d_in, r.d_out, lr, ultra ? h : r.u,
                   ultra ? shape.size : r.d_in, h, shape.size, h + r.d_in, shape.size, d,
                   r.d_out);
    from_device(got, d, n);
    float *want = golden_f32(g, golden_find(g, "D", batch, r.module));
    double error = relative_error_f32(got, want, n);
    if (!(error < 5e-6))
        fail_msg("%s batch %zu %s: D is off by %g", g->dir, batch, r.module, error);
    mal_free(want);
    mal_free(got);
    free_device(d);
    mal_arena_finish(&scratch);
    mal_hypernet_destroy(hyper);
    mal_normalizer_finish(&norm);
    golden_rows_free(&r);
}

static void test_golden(void **state) {
    size_t seen = 0;
    for (size_t c = 0; c < N_EDIT_CASES; c++) {
        struct golden g;
        if (!golden_open(&g, edit_cases[c])) continue;
        bool mend = g.editor->method == &mal_method_mend; /* has no D: test_solve */
        for (size_t batch = 0; !mend && batch < g.n_batches; batch++) {
            for (size_t m = 0; m < g.editor->n_modules; m++, seen++)
                check_diffs(&g, batch, m);
        }
        golden_close(&g);
    }
    assert_true(seen > 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_forward),   cmocka_unit_test(test_no_blocks),
        cmocka_unit_test(test_no_memory), cmocka_unit_test(test_editor_resident),
        cmocka_unit_test(test_golden),
    };
    return cmocka_run_group_tests_name("hypernet", tests, NULL, NULL);
}
