/* test_train_ops.c - what training adds to the operations: backward of the editors' own
 * operations, sums of products, Adam; each against central differences or formulas in
 * double. */
#include "device.h"

#include "reference.h"

/* ---- Blocks of the hyper-network ---- */

struct block_data {
    int64_t n, c;
    double *h, *z, *scale, *shift, *bias, *dh;
};

/* sum(dh * block), z being before the bias. */
static double ref_block(const void *arg) {
    const struct block_data *b = arg;
    double sum = 0;
    for (int64_t i = 0; i < b->n * b->c; i++) {
        double z = b->z[i] + b->bias[i % b->c];
        sum += b->dh[i] *
               (b->h[i] + b->scale[i % b->c] * (z < 0 ? 0 : z) + b->shift[i % b->c]);
    }
    return sum;
}

static void check_block_bwd(struct device *dev, int64_t n, int64_t c) {
    int64_t size = n * c;
    float *z = random_floats(dev, size), *dh = random_floats(dev, size);
    float *scale = random_floats(dev, c), *before = random_floats(dev, 3 * c);
    struct block_data b = {
        n, c, double_zeros(size), NULL, NULL, double_zeros(c), double_zeros(c), NULL};
    for (int64_t i = 0; i < size; i++) /* away from the kink */
        z[i] += z[i] < 0 ? -1e-3f : 1e-3f;
    b.z = wide(z, size);
    b.dh = wide(dh, size);
    b.scale = wide(scale, c);
    float *dz = device_floats(dev, z, size);
    float *sums[] = {device_floats(dev, before, c), device_floats(dev, before + c, c),
                     device_floats(dev, before + 2 * c, c)};
    float *dev_dh = device_floats(dev, dh, size);
    mal_block_bwd(dev->be, n, c, dev_dh, device_floats(dev, scale, c), dz, sums[0],
                  sums[1], sums[2]);
    float *got = host_floats(dev, dz, size), *same = host_floats(dev, dev_dh, size);
    assert_memory_equal(same, dh, (size_t)size * sizeof *dh);
    int64_t step = size > 1000 ? size / 97 : 1;
    for (int64_t i = 0; i < size; i += step)
        check_close("dz", i, (double)got[i], slope(&b.z[i], ref_block, &b), 1e-5);

    double *const by[] = {b.scale, b.shift, b.bias};
    for (int s = 0; s < 3; s++) {
        float *sum = host_floats(dev, sums[s], c);
        int64_t step_c = size > 1000 ? c / 31 + 1 : 1;
        for (int64_t j = 0; j < c; j += step_c) {
            double want = (double)before[s * c + j] + slope(&by[s][j], ref_block, &b);
            check_close(s == 0   ? "dscale"
                        : s == 1 ? "dshift"
                                 : "dbias",
                        j, (double)sum[j], want, 1e-5 + 1e-6 * fabs(want));
        }
        free(sum);
    }
    double *const all[] = {b.h, b.z, b.scale, b.shift, b.bias, b.dh};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        free(all[i]);
    free(z);
    free(dh);
    free(scale);
    free(before);
    free(got);
    free(same);
    device_release(dev);
}

static void block_bwd(void **state) {
    static const int64_t cases[][2] = {{1, 1},   {1, 7},   {3, 31},  {64, 5},
                                       {2, 256}, {3, 257}, {29, 600}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++)
        check_block_bwd(*state, cases[t][0], cases[t][1]);
}

/* With slope 0 at 0 an untrained hyper-network would never learn (core/README.md section
 * 3). */
static void block_has_slope_1_at_0(void **state) {
    struct device *dev = *state;
    const float z[] = {0.0f, -0.0f, -1e-30f, 1e-30f}, dh[] = {3, 4, 5, 6};
    const float scale[] = {2, 2, 2, 2}, zeros[4] = {0};
    float *dz = device_floats(dev, z, 4), *dbias = device_floats(dev, zeros, 4);
    float *dscale = device_floats(dev, zeros, 4), *dshift = device_floats(dev, zeros, 4);
    mal_block_bwd(dev->be, 1, 4, device_floats(dev, dh, 4), device_floats(dev, scale, 4),
                  dz, dscale, dshift, dbias);
    const float want[] = {6, 8, 0, 12};
    float *got = host_floats(dev, dz, 4), *bias = host_floats(dev, dbias, 4);
    for (int j = 0; j < 4; j++)
        assert_true(got[j] == want[j] && bias[j] == want[j]);
    free(got);
    free(bias);
    device_release(dev);
}

/* ---- Value differences ---- */

struct diffs {
    int64_t n, da, dc;
    double lr, *a, *b, *c, *e;
};

/* sum(e * d) */
static double ref_diffs(const void *arg) {
    const struct diffs *x = arg;
    double sum = 0;
    for (int64_t i = 0; i < x->n; i++) {
        double ab = 0, ec = 0;
        for (int64_t j = 0; j < x->da; j++)
            ab += x->a[i * x->da + j] * x->b[i * x->da + j];
        for (int64_t j = 0; j < x->dc; j++)
            ec += x->e[i * x->dc + j] * x->c[i * x->dc + j];
        sum -= x->lr * ab * ec;
    }
    return sum;
}

/* Rows of n floats, ld apart, with what `x` holds between them left out. */
static double *wide_rows(const float *x, int64_t rows, int64_t n, int64_t ld) {
    double *y = double_zeros(rows * n);
    for (int64_t i = 0; i < rows * n; i++)
        y[i] = (double)x[i / n * ld + i % n];
    return y;
}

/* Rows of da + dc floats as the hyper-network has them: b and c are parts of one row, and
 * so are their gradients. `pad` floats follow each row. */
static void check_diffs_bwd(struct device *dev, int64_t n, int64_t da, int64_t dc,
                            int64_t pad) {
    int64_t ld = da + dc + pad, ld_a = da + pad, ld_e = dc + 2 * pad;
    float *a = random_floats(dev, n * ld_a), *bc = random_floats(dev, n * ld);
    float *e = random_floats(dev, n * ld_e), *before = random_floats(dev, n * ld);
    struct diffs x = {.n = n, .da = da, .dc = dc, .lr = (double)0.3f};
    x.a = wide_rows(a, n, da, ld_a);
    x.b = wide_rows(bc, n, da, ld);
    x.c = wide_rows(bc + da, n, dc, ld);
    x.e = wide_rows(e, n, dc, ld_e);
    double dlr_before = 0.75;
    float *grad = device_floats(dev, before, n * ld);
    float *dev_bc = device_floats(dev, bc, n * ld);
    double *dlr = device_doubles(dev, &dlr_before, 1);
    mal_edit_diffs_bwd(dev->be,
                       &(struct mal_edit_diffs_bwd){.n = n,
                                                    .da = da,
                                                    .dc = dc,
                                                    .lr = 0.3f,
                                                    .a = device_floats(dev, a, n * ld_a),
                                                    .b = dev_bc,
                                                    .c = dev_bc + da,
                                                    .e = device_floats(dev, e, n * ld_e),
                                                    .lda = pad ? ld_a : 0,
                                                    .ldb = ld,
                                                    .ldc = ld,
                                                    .lde = pad ? ld_e : 0,
                                                    .grad_b = grad,
                                                    .grad_c = grad + da,
                                                    .ld_grad = ld,
                                                    .dlr = dlr});
    float *got = host_floats(dev, grad, n * ld);
    int64_t step = n * ld > 1000 ? 7 : 1;
    for (int64_t i = 0; i < n * ld; i++) {
        int64_t row = i / ld, j = i % ld;
        if (j >= da + dc) {
            assert_true(got[i] == before[i]);
        } else if (i % step == 0) {
            double *at = j < da ? &x.b[row * da + j] : &x.c[row * dc + j - da];
            double want = slope(at, ref_diffs, &x);
            check_close(j < da ? "db" : "dc", i, (double)got[i], want,
                        1e-6 + 1e-5 * fabs(want));
        }
    }
    double *got_lr = host_copy(dev, dlr, sizeof *got_lr);
    double want = dlr_before + slope(&x.lr, ref_diffs, &x);
    check_close("dlr", 0, *got_lr, want, 1e-7 * (1 + fabs(want)));
    free(a);
    free(bc);
    free(e);
    free(before);
    free(x.a);
    free(x.b);
    free(x.c);
    free(x.e);
    free(got);
    free(got_lr);
    device_release(dev);
}

static void edit_diffs_bwd(void **state) {
    static const int64_t cases[][4] = {{1, 1, 1, 0},    {1, 1, 7, 2},  {3, 33, 5, 0},
                                       {63, 4, 3, 1},   {64, 5, 2, 0}, {65, 3, 4, 3},
                                       {130, 65, 70, 1}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++)
        check_diffs_bwd(*state, cases[t][0], cases[t][1], cases[t][2], cases[t][3]);
}

/* ---- Sums of products ---- */

/* Rows of c numbers, ld apart; those of fp32 hold what fp64 cannot lose. */
static void *numbers(struct device *dev, enum mal_dtype dtype, int64_t rows, int64_t ld,
                     double *out) {
    int64_t n = rows * ld;
    float *narrow = random_floats(dev, n);
    for (int64_t i = 0; i < n; i++) {
        out[i] = (double)narrow[i];
        if (dtype == MAL_F64) out[i] += 1e-9 * random_uniform(dev);
    }
    void *mem = dtype == MAL_F64 ? (void *)device_doubles(dev, out, n)
                                 : (void *)device_floats(dev, narrow, n);
    free(narrow);
    return mem;
}

static void check_dot(struct device *dev, int64_t n, int64_t c, int64_t pad,
                      enum mal_dtype a_dtype, enum mal_dtype b_dtype) {
    int64_t lda = c + pad, ldb = c + 2 * pad;
    double *a = double_zeros(n * lda), *b = double_zeros(n * ldb), before = 17;
    void *dev_a = numbers(dev, a_dtype, n, lda, a);
    void *dev_b = numbers(dev, b_dtype, n, ldb, b);
    double *out = device_doubles(dev, &before, 1);
    mal_dot(dev->be, n, c, dev_a, a_dtype, pad ? lda : 0, dev_b, b_dtype, pad ? ldb : 0,
            out);
    double want = 0, size = 0, *got = host_copy(dev, out, sizeof *got);
    for (int64_t i = 0; i < n * c; i++) {
        double product = a[i / c * lda + i % c] * b[i / c * ldb + i % c];
        want += product;
        size += fabs(product);
    }
    check_close("dot", n * c, *got, want, 1e-14 * size);
    free(a);
    free(b);
    free(got);
    device_release(dev);
}

static void dot(void **state) {
    static const int64_t cases[][3] = {{0, 5, 0},  {3, 0, 1},  {1, 1, 0},    {1, 33, 3},
                                       {65, 7, 1}, {64, 1, 2}, {131, 130, 0}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        for (int types = 0; types < 4; types++) {
            check_dot(*state, cases[t][0], cases[t][1], cases[t][2],
                      types & 1 ? MAL_F64 : MAL_F32, types & 2 ? MAL_F64 : MAL_F32);
        }
    }
    struct device *dev = *state;
    double *out = device_doubles(dev, NULL, 1);
    mal_dot(dev->be, 0, 0, NULL, MAL_F32, 0, NULL, MAL_F64, 0, out);
    double *got = host_copy(dev, out, sizeof *got);
    assert_true(*got == 0);
    free(got);
    device_release(dev);
}

/* ---- Adam ---- */

/* torch.optim.Adam's single-tensor step, in double. */
static void ref_adam(const struct mal_adam *k, double *p, double *m, double *v,
                     const float *grad, const float *weights) {
    double t = (double)k->t, correct1 = 1 - pow(k->beta1, t);
    double correct2 = 1 - pow(k->beta2, t);
    const float *w = weights;
    for (int64_t i = 0; i < k->n; i++) {
        double g = k->grad_scale * (double)grad[i];
        if (k->decay != 0) g += k->decay * ((double)w[i] + p[i]);
        m[i] = k->beta1 * m[i] + (1 - k->beta1) * g;
        v[i] = k->beta2 * v[i] + (1 - k->beta2) * g * g;
        p[i] -= k->lr / correct1 * m[i] / (sqrt(v[i]) / sqrt(correct2) + k->eps);
        if (k->bound > 0) p[i] = fmax(fmin(p[i], k->bound), -k->bound);
    }
}

/* What the step's shift is added to, in its own type on the device; as fp32, owned. */
static float *rounded_weights(struct device *dev, struct mal_adam *adam) {
    float *w = random_floats(dev, adam->n);
    size_t n = (size_t)adam->n;
    void *stored = malloc(n * mal_dtype_size(adam->w_dtype) + 1);
    assert_non_null(stored);
    if (adam->decay != 0) {
        mal_from_f32(stored, w, adam->w_dtype, n);
        mal_to_f32(w, stored, adam->w_dtype, n);
        adam->w = device_buffer(dev, stored, n * mal_dtype_size(adam->w_dtype));
    }
    free(stored);
    return w;
}

static double largest(const float *x, int64_t n) {
    double most = 0;
    for (int64_t i = 0; i < n; i++)
        most = fmax(most, fabs((double)x[i]));
    return most;
}

static void check_adam(struct device *dev, int64_t n, const struct mal_adam *options) {
    float *start = random_floats(dev, n);
    double *p = wide(start, n), *m = double_zeros(n), *v = double_zeros(n);
    float *zeros = calloc((size_t)n, sizeof *zeros);
    assert_non_null(zeros);
    struct mal_adam adam = *options;
    adam.n = n;
    adam.p = device_floats(dev, start, n);
    adam.m = device_floats(dev, zeros, n);
    adam.v = device_floats(dev, zeros, n);
    float *w = rounded_weights(dev, &adam);
    for (adam.t = 1; adam.t <= 5; adam.t++) {
        float *g = random_floats(dev, n);
        for (int64_t i = 0; i < n; i++)
            g[i] = i % 5 == 4 ? 0 : g[i]; /* where nothing pulls, nothing moves */
        adam.g = device_floats(dev, g, n);
        mal_adam_step(dev->be, &adam);
        ref_adam(&adam, p, m, v, g, w);
        float *got[] = {host_floats(dev, adam.p, n), host_floats(dev, adam.m, n),
                        host_floats(dev, adam.v, n)};
        double *const want[] = {p, m, v};
        const char *const names[] = {"p", "m", "v"};
        double step = 5 * options->lr; /* all of them, at most */
        /* each update's own error, and the rounding of each sum: half an ulp of p */
        double of_p = 3e-6 * step + (double)adam.t * 0x1p-24 * (largest(start, n) + step);
        for (int x = 0; x < 3; x++)
            check_floats(names[x], n, got[x], want[x], x == 0 ? of_p : 1e-6,
                         x == 0 ? 0 : 1e-6);
        for (int64_t i = 4; i < n && adam.decay == 0 && adam.bound == 0; i += 5)
            assert_true(got[0][i] == start[i]);
        for (int x = 0; x < 3; x++)
            free(got[x]);
        free(g);
    }
    free(w);
    free(start);
    free(zeros);
    free(p);
    free(m);
    free(v);
    device_release(dev);
}

static void adam_step(void **state) {
    static const struct mal_adam options[] = {
        {.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .grad_scale = 1},
        {.lr = 0.3, .beta1 = 0.5, .beta2 = 0.75, .eps = 0.5, .grad_scale = 0.125},
        {.lr = 1e-5, .beta1 = 0, .beta2 = 0.99, .eps = 1e-8, .grad_scale = -3},
        {.lr = 1e-2,
         .beta1 = 0.9,
         .beta2 = 0.999,
         .eps = 1e-8,
         .grad_scale = 1,
         .bound = 0.5},
        {.lr = 0.1,
         .beta1 = 0.9,
         .beta2 = 0.99,
         .eps = 0.1,
         .grad_scale = 1,
         .decay = 0.3,
         .w_dtype = MAL_F32},
        {.lr = 0.1,
         .beta1 = 0.9,
         .beta2 = 0.99,
         .eps = 0.1,
         .grad_scale = 0.5,
         .decay = 0.2,
         .bound = 0.7,
         .w_dtype = MAL_F16},
        {.lr = 0.1,
         .beta1 = 0.9,
         .beta2 = 0.99,
         .eps = 0.1,
         .grad_scale = 2,
         .decay = -0.3,
         .bound = 3,
         .w_dtype = MAL_BF16}};
    static const int64_t sizes[] = {1, 7, 33, 16384 + 16384 + 5};
    for (size_t o = 0; o < sizeof options / sizeof options[0]; o++) {
        for (size_t t = 0; t < sizeof sizes / sizeof sizes[0]; t++)
            check_adam(*state, sizes[t], &options[o]);
    }
}

/* What torch.optim.Adam (2.15, single tensor) leaves after five steps. */
static void adam_as_torch(void **state) {
    struct device *dev = *state;
    static const float start[] = {1.0f, -0.5f, 0.25f, 2.0f, 1e-3f};

    static const struct {
        struct mal_adam options;
        float want[3][5];
    } cases[] = {
        {{.lr = 1e-2, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .grad_scale = 1},
         {{0.955985367f, -0.451491714f, 0.278054684f, 2.01434922f, 0.00100000005f},
          {0.0857800022f, -1.64301252f, 8.58800013e-06f, -0.251130015f, 0},
          {0.000364645821f, 0.0858594254f, 9.98002653e-11f, 0.0449100882f, 0}}},
        {{.lr = 0.3, .beta1 = 0.5, .beta2 = 0.75, .eps = 0.5, .grad_scale = 0.125},
         {{0.904904723f, 0.141453817f, 0.250018597f, 2.14358139f, 0.00100000005f},
          {0.0166666675f, -0.629882812f, 1.40624998e-05f, -0.12890625f, 0},
          {0.000557861349f, 0.268959999f, 2.51464821e-10f, 0.107254028f, 0}}}};

    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        const float zeros[5] = {0};
        struct mal_adam adam = cases[k].options;
        adam.n = 5;
        adam.p = device_floats(dev, start, 5);
        adam.m = device_floats(dev, zeros, 5);
        adam.v = device_floats(dev, zeros, 5);
        for (adam.t = 1; adam.t <= 5; adam.t++) {
            double t = (double)adam.t;
            const float g[] = {(float)(0.5 / t), (float)(-1.25 * t),
                               (float)(1e-4 * (t - 3)), adam.t % 2 ? -3 : 3, 0};
            adam.g = device_floats(dev, g, 5);
            mal_adam_step(dev->be, &adam);
        }
        float *const got[] = {adam.p, adam.m, adam.v};
        for (int x = 0; x < 3; x++) {
            float *host = host_floats(dev, got[x], 5);
            for (int64_t i = 0; i < 5; i++) {
                double want = (double)cases[k].want[x][i];
                check_close("torch", 5 * x + i, (double)host[i], want, 2e-7 * fabs(want));
            }
            free(host);
        }
        device_release(dev);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(block_bwd),      cmocka_unit_test(block_has_slope_1_at_0),
        cmocka_unit_test(edit_diffs_bwd), cmocka_unit_test(dot),
        cmocka_unit_test(adam_step),      cmocka_unit_test(adam_as_torch),
    };
    return cmocka_run_group_tests_name("train_ops", tests, device_open, device_close);
}
