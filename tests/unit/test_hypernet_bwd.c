/* test_hypernet_bwd.c - the hyper-network's backward pass against differences of a
 * forward pass in double. */
#include "edit_golden.h"

#include <float.h>

#include "core/editor/hypernet.h"

/* ---- A network of random parameters ---- */

enum { N_PARTS = 5, MAX_BLOCKS = 3 }; /* A, B, bias, scale, shift */

static const char *const part_names[N_PARTS] = {"A", "B", "bias", "scale", "shift"};

struct net {
    int64_t d_in, d_out, rank, n_blocks, n_modules, rows;
    int64_t size;
    struct mal_editor_shape shape;
    float *u, *g, *dh;                   /* (rows, ..), dh (rows, size) = dL/d out */
    double *params[MAX_BLOCKS][N_PARTS]; /* what the reference computes with */
    struct mal_block before[MAX_BLOCKS]; /* what the gradients are added to */
    struct mal_block grads[MAX_BLOCKS];
};

static float *part_of(const struct mal_block *block, int k) {
    float *const parts[N_PARTS] = {block->a, block->b, block->bias, block->scale,
                                   block->shift};
    return parts[k];
}

static int64_t part_size(const struct net *net, int k) {
    const int64_t sizes[N_PARTS] = {net->size * net->rank, net->rank * net->size,
                                    net->size, net->n_modules * net->size,
                                    net->n_modules * net->size};
    return sizes[k];
}

static struct mal_block random_block(const struct net *net, uint64_t seed) {
    return (struct mal_block){.a = random_floats(part_size(net, 0), 0.5f, seed),
                              .b = random_floats(part_size(net, 1), 0.5f, seed + 1),
                              .bias = random_floats(part_size(net, 2), 0.5f, seed + 2),
                              .scale = random_floats(part_size(net, 3), 1, seed + 3),
                              .shift = random_floats(part_size(net, 4), 0.2f, seed + 4)};
}

static void block_free(struct mal_block *block) {
    for (int k = 0; k < N_PARTS; k++)
        mal_free(part_of(block, k));
}

static void net_init(struct net *net) {
    struct mal_error err = {0};
    uint64_t seed = 70;
    net->size = net->d_in + net->d_out;
    net->shape = (struct mal_editor_shape){.d_in = net->d_in,
                                           .d_out = net->d_out,
                                           .size = net->size,
                                           .n_modules = net->n_modules};
    assert_ok(mal_normalizer_init(&net->shape.norm, net->size, &err), &err);
    for (int64_t i = 0; i < net->size; i++) {
        net->shape.norm.mean[i] = next_float(&seed);
        net->shape.norm.std[i] = 1.5f + next_float(&seed);
    }
    net->u = random_floats(net->rows * net->d_in, 1, 31);
    net->g = random_floats(net->rows * net->d_out, 1, 32);
    net->dh = random_floats(net->rows * net->size, 1, 33);
    net->shape.blocks = mal_calloc((size_t)net->n_blocks, sizeof *net->shape.blocks);
    for (int64_t i = 0; i < net->n_blocks; i++) {
        net->shape.blocks[i] = random_block(net, 100 + 10 * (uint64_t)i);
        net->before[i] = random_block(net, 200 + 10 * (uint64_t)i);
        net->grads[i] = random_block(net, 200 + 10 * (uint64_t)i);
    }
}

/* The parameters as they stand, for the reference. */
static void widen(struct net *net) {
    for (int64_t i = 0; i < net->n_blocks; i++) {
        for (int k = 0; k < N_PARTS; k++) {
            int64_t n = part_size(net, k);
            double *x = net->params[i][k] = mal_malloc((size_t)n * sizeof *x);
            for (int64_t j = 0; j < n; j++)
                x[j] = (double)part_of(&net->shape.blocks[i], k)[j];
        }
    }
}

static void net_finish(struct net *net) {
    mal_normalizer_finish(&net->shape.norm);
    for (int64_t i = 0; i < net->n_blocks; i++) {
        block_free(&net->shape.blocks[i]);
        block_free(&net->before[i]);
        block_free(&net->grads[i]);
        for (int k = 0; k < N_PARTS; k++)
            mal_free(net->params[i][k]);
    }
    mal_free(net->shape.blocks);
    mal_free(net->u);
    mal_free(net->g);
    mal_free(net->dh);
}

/* ---- Reference ---- */

/* One row through the network; h (size). */
static void row_forward(const struct net *net, size_t module, int64_t j, double *h) {
    int64_t size = net->size, at = (int64_t)module * size;
    for (int64_t i = 0; i < size; i++) {
        double x = (double)(i < net->d_in ? net->u[j * net->d_in + i]
                                          : net->g[j * net->d_out + i - net->d_in]);
        h[i] = (x - (double)net->shape.norm.mean[i]) /
               ((double)net->shape.norm.std[i] + (double)FLT_EPSILON);
    }
    double *hidden = mal_malloc((size_t)net->rank * sizeof *hidden);
    for (int64_t l = 0; l < net->n_blocks; l++) {
        double *const *p = net->params[l];
        for (int64_t r = 0; r < net->rank; r++) {
            hidden[r] = 0;
            for (int64_t i = 0; i < size; i++)
                hidden[r] += h[i] * p[0][i * net->rank + r];
        }
        for (int64_t i = 0; i < size; i++) {
            double z = p[2][i];
            for (int64_t r = 0; r < net->rank; r++)
                z += hidden[r] * p[1][r * size + i];
            h[i] += p[3][at + i] * (z > 0 ? z : 0) + p[4][at + i];
        }
    }
    mal_free(hidden);
}

/* L = <dh, out> */
static double loss_of(const struct net *net, size_t module) {
    double *h = mal_malloc((size_t)net->size * sizeof *h), sum = 0;
    for (int64_t j = 0; j < net->rows; j++) {
        row_forward(net, module, j, h);
        for (int64_t i = 0; i < net->size; i++)
            sum += (double)net->dh[j * net->size + i] * h[i];
    }
    mal_free(h);
    return sum;
}

static double slope(const struct net *net, size_t module, double *x) {
    double at = *x, h = 1e-6;
    *x = at + h;
    double above = loss_of(net, module);
    *x = at - h;
    double below = loss_of(net, module);
    *x = at;
    return (above - below) / (2 * h);
}

/* ---- On the device ---- */

struct run {
    struct mal_hypernet *hyper;
    struct mal_arena scratch;
    struct mal_hypernet_tape tape;
    float *u, *g;
};

static void run_forward(struct run *run, struct net *net, size_t module) {
    struct mal_backend *be = test_backend();
    struct mal_error err = {0};
    run->u = on_device(net->u, net->rows * net->d_in);
    run->g = on_device(net->g, net->rows * net->d_out);
    assert_ok(
        mal_hypernet_create(&run->hyper, &net->shape, net->rank, net->n_blocks, be, &err),
        &err);
    size_t bytes = mal_hypernet_tape_bytes(run->hyper, net->rows);
    assert_ok(mal_arena_init(&run->scratch, be, bytes, &err), &err);
    mal_hypernet_fwd_taped(run->hyper, module, net->rows, run->u, run->g, &run->scratch,
                           &run->tape);
    assert_int_equal(run->scratch.peak, bytes);
    assert_int_equal(run->tape.rows, net->rows);
}

/* Adds to net->grads. */
static void run_backward(struct run *run, struct net *net, size_t module) {
    struct mal_block grads[MAX_BLOCKS];
    float *dh = on_device(net->dh, net->rows * net->size);
    for (int64_t i = 0; i < net->n_blocks; i++) {
        const struct mal_block *host = &net->grads[i];
        grads[i] = (struct mal_block){.a = on_device(host->a, part_size(net, 0)),
                                      .b = on_device(host->b, part_size(net, 1)),
                                      .bias = on_device(host->bias, part_size(net, 2)),
                                      .scale = on_device(host->scale, part_size(net, 3)),
                                      .shift = on_device(host->shift, part_size(net, 4))};
    }
    mal_hypernet_bwd(run->hyper, module, &run->tape, dh, grads);
    for (int64_t i = 0; i < net->n_blocks; i++) {
        for (int k = 0; k < N_PARTS; k++) {
            float *device = part_of(&grads[i], k);
            from_device(part_of(&net->grads[i], k), device, part_size(net, k));
            free_device(device);
        }
    }
    free_device(dh);
}

static float *copy_of(const float *device, int64_t n) {
    float *host = mal_malloc((size_t)n * sizeof *host);
    from_device(host, device, n);
    return host;
}

static void run_finish(struct run *run) {
    free_device(run->u);
    free_device(run->g);
    mal_arena_finish(&run->scratch);
    mal_hypernet_destroy(run->hyper);
}

/* ---- Checks ---- */

static void check_part(struct net *net, size_t module, int64_t l, int k) {
    const float *got = part_of(&net->grads[l], k), *old = part_of(&net->before[l], k);
    for (int64_t i = 0; i < part_size(net, k); i++) {
        bool others = k >= 3 && i / net->size != (int64_t)module;
        if (others) { /* rows of other modules: not touched */
            assert_true(got[i] == old[i]);
            continue;
        }
        double want = (double)old[i] + slope(net, module, &net->params[l][k][i]);
        if (fabs((double)got[i] - want) <= 2e-5 * (1 + fabs(want))) continue;
        fail_msg("block %lld of %lld, module %zu: d%s[%lld] is %.9g, must be %.9g",
                 (long long)l, (long long)net->n_blocks, module, part_names[k],
                 (long long)i, (double)got[i], want);
    }
}

static const struct net nets[] = {
    {.d_in = 4, .d_out = 3, .rank = 2, .n_blocks = 0, .n_modules = 1, .rows = 3},
    {.d_in = 1, .d_out = 1, .rank = 1, .n_blocks = 1, .n_modules = 1, .rows = 1},
    {.d_in = 4, .d_out = 3, .rank = 2, .n_blocks = 1, .n_modules = 3, .rows = 6},
    {.d_in = 5, .d_out = 6, .rank = 13, .n_blocks = 2, .n_modules = 2, .rows = 1},
    {.d_in = 7, .d_out = 4, .rank = 3, .n_blocks = 2, .n_modules = 3, .rows = 17},
    {.d_in = 3, .d_out = 5, .rank = 4, .n_blocks = 3, .n_modules = 2, .rows = 8},
};

enum { N_NETS = sizeof nets / sizeof *nets };

static void test_gradients(void **state) {
    for (size_t c = 0; c < N_NETS; c++) {
        for (size_t module = 0; module < (size_t)nets[c].n_modules; module++) {
            struct net net = nets[c];
            struct run run = {0};
            net_init(&net);
            widen(&net);
            run_forward(&run, &net, module);
            run_backward(&run, &net, module);
            for (int64_t l = 0; l < net.n_blocks; l++) {
                for (int k = 0; k < N_PARTS; k++)
                    check_part(&net, module, l, k);
            }
            run_finish(&run);
            net_finish(&net);
        }
    }
}

/* What it keeps does not change what comes out, but for its place in memory, by which a
 * GPU's library may choose how to multiply. */
static void test_taped_forward(void **state) {
    struct mal_error err = {0};
    for (size_t c = 0; c < N_NETS; c++) {
        struct net net = nets[c];
        struct run run = {0};
        struct mal_arena scratch;
        net_init(&net);
        size_t module = (size_t)net.n_modules - 1;
        run_forward(&run, &net, module);
        size_t bytes = mal_hypernet_scratch_bytes(run.hyper, net.rows);
        assert_ok(mal_arena_init(&scratch, test_backend(), bytes, &err), &err);
        float *h = mal_hypernet_fwd(run.hyper, module, net.rows, run.u, run.g, &scratch);
        int64_t n = net.rows * net.size;
        float *plain = copy_of(h, n), *taped = copy_of(run.tape.out, n);
        double most = mal_backend_on_host(test_backend()) ? 0 : 1e-6;
        assert_true(relative_error_f32(taped, plain, n) <= most);
        mal_free(plain);
        mal_free(taped);
        mal_arena_finish(&scratch);
        run_finish(&run);
        net_finish(&net);
    }
}

/* With slope 0 at 0 nothing but lr, lamda and shift would ever learn (core/README.md
 * section 3). */
static void test_untrained(void **state) {
    struct net net = nets[2];
    struct run run = {0};
    net_init(&net);
    struct mal_block *block = &net.shape.blocks[0];
    for (int k = 0; k < N_PARTS; k++) {
        float *p = part_of(block, k), *grad = part_of(&net.grads[0], k);
        for (int64_t i = 0; i < part_size(&net, k); i++) {
            if (k > 0) p[i] = k == 3 ? 1 : 0;
            grad[i] = 0;
        }
    }
    run_forward(&run, &net, 1);
    float *out = copy_of(run.tape.out, net.rows * net.size);
    run_backward(&run, &net, 1);
    double *want = mal_calloc((size_t)(net.rank * net.size), sizeof *want), norm = 0;
    for (int64_t j = 0; j < net.rows; j++) {
        const float *h = out + j * net.size; /* the identity's */
        for (int64_t r = 0; r < net.rank; r++) {
            double hidden = 0;
            for (int64_t i = 0; i < net.size; i++)
                hidden += (double)h[i] * (double)block->a[i * net.rank + r];
            for (int64_t i = 0; i < net.size; i++)
                want[r * net.size + i] += hidden * (double)net.dh[j * net.size + i];
        }
    }
    for (int64_t i = 0; i < net.rank * net.size; i++) {
        norm += want[i] * want[i];
        assert_true(fabs((double)net.grads[0].b[i] - want[i]) < 1e-5);
    }
    assert_true(norm > 1);
    for (int64_t i = 0; i < net.size; i++) {
        assert_true(net.grads[0].bias[i] == net.grads[0].shift[net.size + i]);
        assert_true(net.grads[0].scale[net.size + i] == 0);
        assert_true(net.grads[0].a[i] == 0);
    }
    mal_free(want);
    mal_free(out);
    run_finish(&run);
    net_finish(&net);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_taped_forward),
        cmocka_unit_test(test_gradients),
        cmocka_unit_test(test_untrained),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
