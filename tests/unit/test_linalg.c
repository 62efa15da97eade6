/* test_linalg.c - products and factorisations of a device against plain loops in double.
 */
#include "device.h"

/* ---- Products ---- */

/* Element (i,j) of op(x). */
static double element(const float *x, int64_t ld, bool trans, int64_t i, int64_t j) {
    return (double)(trans ? x[j * ld + i] : x[i * ld + j]);
}

static const struct product_case {
    int64_t m, n, k;
    bool trans_a, trans_b;
    int64_t pad; /* added to each row length; 0: leading dimension given as 0 */
    double alpha, beta;
    bool bias;
} products[] = {
    {1, 1, 1, false, false, 0, 1, 0, false},
    {1, 50257, 8, false, true, 0, 1, 0, false},
    {3, 5, 7, false, false, 2, 1, 0, true},
    {3, 5, 7, true, false, 0, -2, 1, true},
    {17, 33, 65, false, true, 3, 0.5, 0, true},
    {33, 31, 129, true, true, 1, 1, 0.25, false},
    {64, 96, 100, true, false, 0, 1, 1, false},
    {8, 100, 300, false, true, 0, 1, 0, true},
    {5, 6, 0, false, false, 0, 1, 0, true},
    {5, 6, 0, false, false, 0, 1, 2, false},
    {70, 300, 40, false, false, 5, 1, 0.5, true},
};

/* The operands of a case, in host memory; c is what it is before. */
struct operands {
    int64_t rows_a, lda, rows_b, ldb, ldc;
    float *a, *b, *c, *bias;
    double *want, *scale; /* (m,n) of the result, and of the sum of magnitudes */
};

static struct operands make_operands(struct device *dev, const struct product_case *p) {
    struct operands o = {
        .rows_a = p->trans_a ? p->k : p->m,
        .lda = (p->trans_a ? p->m : p->k) + p->pad,
        .rows_b = p->trans_b ? p->n : p->k,
        .ldb = (p->trans_b ? p->k : p->n) + p->pad,
        .ldc = p->n + p->pad,
    };
    o.a = random_floats(dev, o.rows_a * o.lda);
    o.b = random_floats(dev, o.rows_b * o.ldb);
    o.c = random_floats(dev, p->m * o.ldc);
    o.bias = random_floats(dev, p->n);
    if (p->beta == 0) o.c[0] = NAN; /* must be overwritten, not multiplied */
    o.want = double_zeros(p->m * o.ldc);
    o.scale = double_zeros(p->m * o.ldc);
    return o;
}

static void multiply(struct operands *o, const struct product_case *p) {
    for (int64_t i = 0; i < p->m; i++) {
        for (int64_t j = 0; j < o->ldc; j++) {
            double *want = o->want + i * o->ldc + j, *scale = o->scale + i * o->ldc + j;
            *want = (double)o->c[i * o->ldc + j];
            if (j >= p->n) continue;
            *want = p->beta == 0 ? 0 : p->beta * *want;
            for (int64_t k = 0; k < p->k; k++) {
                double product = element(o->a, o->lda, p->trans_a, i, k) *
                                 element(o->b, o->ldb, p->trans_b, k, j);
                *want += p->alpha * product;
                *scale += fabs(p->alpha * product);
            }
        }
    }
}

static void free_operands(struct operands *o) {
    free(o->a);
    free(o->b);
    free(o->c);
    free(o->bias);
    free(o->want);
    free(o->scale);
}

/* b in device memory as `dtype`; o->b becomes the values that it holds then. */
static void *device_weights(struct device *dev, struct operands *o,
                            enum mal_dtype dtype) {
    size_t n = (size_t)(o->rows_b * o->ldb);
    float *narrow = random_floats(dev, (int64_t)n);
    mal_from_f32(narrow, o->b, dtype, n);
    mal_to_f32(o->b, narrow, dtype, n);
    void *b = device_buffer(dev, narrow, n * mal_dtype_size(dtype));
    free(narrow);
    return b;
}

static void check_gemm(struct device *dev, const struct product_case *cases, size_t n,
                       enum mal_dtype dtype) {
    for (size_t t = 0; t < n; t++) {
        const struct product_case *p = &cases[t];
        struct operands o = make_operands(dev, p);
        void *b = device_weights(dev, &o, dtype);
        multiply(&o, p);
        float *c = device_floats(dev, o.c, p->m * o.ldc);
        mal_gemm(dev->be, &(struct mal_gemm){
                              .m = p->m,
                              .n = p->n,
                              .k = p->k,
                              .a = device_floats(dev, o.a, o.rows_a * o.lda),
                              .lda = p->pad ? o.lda : 0,
                              .trans_a = p->trans_a,
                              .b = b,
                              .b_dtype = dtype,
                              .ldb = p->pad ? o.ldb : 0,
                              .trans_b = p->trans_b,
                              .c = c,
                              .ldc = p->pad ? o.ldc : 0,
                              .alpha = (float)p->alpha,
                              .beta = (float)p->beta,
                              .bias = p->bias ? device_floats(dev, o.bias, p->n) : NULL,
                          });
        float *got = host_floats(dev, c, p->m * o.ldc);
        for (int64_t i = 0; i < p->m * o.ldc; i++) {
            double bias = p->bias && i % o.ldc < p->n ? (double)o.bias[i % o.ldc] : 0;
            check_close("gemm", i, (double)got[i], o.want[i] + bias,
                        2e-6 * o.scale[i] + 1e-6);
        }
        free(got);
        free_operands(&o);
        device_release(dev);
    }
}

/* With every type of weights: few rows, as in decoding, too, and more weights than are
 * widened at once. */
static void gemm(void **state) {
    static const struct product_case more[] = {
        {5, 130, 31, true, false, 1, -1, 0.5, true},
        {7, 530, 700, false, false, 0, 2, 0, false},
        {8, 530, 700, true, true, 0, 1, 0, true},
        {3, 600, 4200, false, false, 0, 1, 0, true},
        {4, 601, 770, false, true, 1, 1, 0, true},
        {4, 2101, 529, false, false, 0, 1, 0.5, false},
        {2, 601, 770, false, true, 0, 0.5, 1, true},
        {1, 4400, 530, false, false, 3, 1, 0, true},
        {11, 600, 4200, false, true, 1, 1, 0.5, true},
        {11, 600, 4200, true, false, 1, 1, 0.5, true},
    };

    static const enum mal_dtype dtypes[] = {MAL_F32, MAL_F16, MAL_BF16};

    for (size_t t = 0; t < sizeof dtypes / sizeof dtypes[0]; t++) {
        check_gemm(*state, products, sizeof products / sizeof products[0], dtypes[t]);
        check_gemm(*state, more, sizeof more / sizeof more[0], dtypes[t]);
        for (int m = 1; m <= 18; m += m < 9 ? 1 : 4) {
            const struct product_case few[] = {
                {m, 263, 1001, false, false, m % 3, 1, m % 2, m % 5 > 0},
                {m, 263, 1001, false, true, m % 3, 1, m % 2, m % 5 > 0}};
            check_gemm(*state, few, 2, dtypes[t]);
        }
    }
}

/* A NaN or an infinite weight spoils its column, whatever it is multiplied with. */
static void gemm_of_nan_weights(void **state) {
    struct device *dev = *state;

    enum { N = 70, K = 40 };

    for (int kind = 0; kind < 8; kind++) {
        enum mal_dtype dtype = kind % 2 ? MAL_F16 : MAL_BF16;
        bool trans_b = kind / 2 % 2;
        int64_t m = kind < 4 ? 1 : 20;
        float a[20 * K] = {0}, b[N * K] = {0}, c[20 * N];
        uint16_t narrow[N * K];
        b[trans_b ? 33 * K + 7 : 7 * N + 33] = NAN;
        b[trans_b ? 69 * K + 39 : 39 * N + 69] = INFINITY;
        mal_from_f32(narrow, b, dtype, N * K);
        float *dev_c = device_floats(dev, c, m * N);
        mal_gemm(dev->be,
                 &(struct mal_gemm){.m = m,
                                    .n = N,
                                    .k = K,
                                    .a = device_floats(dev, a, m * K),
                                    .b = device_buffer(dev, narrow, sizeof narrow),
                                    .b_dtype = dtype,
                                    .trans_b = trans_b,
                                    .c = dev_c,
                                    .alpha = 1});
        float *got = host_floats(dev, dev_c, m * N);
        for (int64_t i = 0; i < m * N; i++)
            assert_true(i % N == 33 || i % N == 69 ? isnan(got[i]) : got[i] == 0);
        free(got);
        device_release(dev);
    }
}

/* Each operand as fp32 and as fp64. */
static void gemm64_case(struct device *dev, const struct product_case *p, int types) {
    struct operands o = make_operands(dev, p);
    multiply(&o, p);
    int64_t n_a = o.rows_a * o.lda, n_b = o.rows_b * o.ldb, n_c = p->m * o.ldc;
    double *a = wide(o.a, n_a), *b = wide(o.b, n_b), *c = wide(o.c, n_c);
    bool a64 = types & 1, b64 = types & 2;
    double *dev_c = device_doubles(dev, c, n_c);
    mal_gemm64(dev->be, &(struct mal_gemm64){
                            .m = p->m,
                            .n = p->n,
                            .k = p->k,
                            .a = a64 ? (void *)device_doubles(dev, a, n_a)
                                     : (void *)device_floats(dev, o.a, n_a),
                            .a_dtype = a64 ? MAL_F64 : MAL_F32,
                            .lda = p->pad ? o.lda : 0,
                            .trans_a = p->trans_a,
                            .b = b64 ? (void *)device_doubles(dev, b, n_b)
                                     : (void *)device_floats(dev, o.b, n_b),
                            .b_dtype = b64 ? MAL_F64 : MAL_F32,
                            .ldb = p->pad ? o.ldb : 0,
                            .trans_b = p->trans_b,
                            .c = dev_c,
                            .ldc = p->pad ? o.ldc : 0,
                            .alpha = p->alpha,
                            .beta = p->beta,
                        });
    double *got = host_copy(dev, dev_c, (size_t)n_c * sizeof *got);
    for (int64_t i = 0; i < n_c; i++)
        check_close("gemm64", i, got[i], o.want[i], 1e-14 * o.scale[i] + 1e-15);
    free(got);
    free(a);
    free(b);
    free(c);
    free_operands(&o);
    device_release(dev);
}

static void gemm64(void **state) {
    for (size_t t = 0; t < sizeof products / sizeof products[0]; t++)
        for (int types = 0; types < 4; types++)
            gemm64_case(*state, &products[t], types);
    /* More than one slice and tile of what a device can widen at a time. */
    const struct product_case large = {9001, 3, 1100, true, false, 0, 1, 0.5, false};
    gemm64_case(*state, &large, 0);
    const struct product_case wide = {2, 8500, 700, false, true, 1, -1, 0, false};
    gemm64_case(*state, &wide, 0);
}

static void syrk64(void **state) {
    struct device *dev = *state;
    static const struct product_case cases[] = {
        {.m = 1, .k = 1, .alpha = 1},
        {.m = 5, .k = 9, .alpha = 2, .beta = 1, .pad = 3},
        {.m = 70, .k = 33, .trans_a = true, .alpha = 1, .beta = 0.5},
        {.m = 4, .k = 0, .trans_a = true, .alpha = 1},
        {.m = 40, .k = 105001, .trans_a = true, .alpha = 1, .pad = 1},
        {.m = 40, .k = 105001, .alpha = 1},
    };
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        struct product_case p = cases[t];
        p.n = p.m;
        bool trans = p.trans_a; /* c = a'a: op(a) (n,k) is the transposed one */
        p.trans_b = !trans;
        struct operands o = make_operands(dev, &p);
        int64_t n = p.m, rows = trans ? p.k : n, cols = trans ? n : p.k;
        double *c = wide(o.c, n * o.ldc);
        double *dev_c = device_doubles(dev, c, n * o.ldc);
        mal_syrk64(dev->be, n, p.k, p.alpha,
                   device_floats(dev, o.a, rows * (cols + p.pad)),
                   p.pad ? cols + p.pad : 0, trans, p.beta, dev_c, p.pad ? o.ldc : 0);
        double *got = host_copy(dev, dev_c, (size_t)(n * o.ldc) * sizeof *got);
        for (int64_t i = 0; i < n * o.ldc; i++) {
            int64_t row = i / o.ldc, col = i % o.ldc;
            double want = c[i];
            if (col <= row) want = p.beta == 0 ? 0 : p.beta * c[i];
            double scale = 0;
            for (int64_t k = 0; col <= row && k < p.k; k++) {
                double product = element(o.a, cols + p.pad, trans, row, k) *
                                 element(o.a, cols + p.pad, trans, col, k);
                want += p.alpha * product;
                scale += fabs(p.alpha * product);
            }
            check_close("syrk64", i, got[i], want,
                        (1e-14 + 1e-17 * (double)p.k) * scale + 1e-15);
        }
        free(got);
        free(c);
        free_operands(&o);
        device_release(dev);
    }
}

/* ---- Factorisations ---- */

/* A symmetric positive definite matrix, ld columns. */
static double *definite(struct device *dev, int64_t n, int64_t ld) {
    double *x = double_zeros(n * n), *a = double_zeros(n * ld);
    for (int64_t i = 0; i < n * n; i++)
        x[i] = (double)random_float(dev);
    for (int64_t i = 0; i < n; i++)
        for (int64_t j = 0; j < ld; j++) {
            a[i * ld + j] = j == i ? 1 : j >= n ? 77 : 0;
            for (int64_t k = 0; j < n && k < n; k++)
                a[i * ld + j] += x[i * n + k] * x[j * n + k];
        }
    free(x);
    return a;
}

static void potrf64(void **state) {
    struct device *dev = *state;
    static const int64_t sizes[] = {1, 2, 7, 33, 100, 200};
    for (size_t t = 0; t < sizeof sizes / sizeof sizes[0]; t++) {
        int64_t n = sizes[t], ld = n + (int64_t)t % 3;
        double *a = definite(dev, n, ld), info[2] = {0, -5};
        double *dev_a = device_doubles(dev, a, n * ld),
               *dev_info = device_doubles(dev, info, 2);
        mal_potrf64(dev->be, n, dev_a, ld, 1000, dev_info);
        double *l = host_copy(dev, dev_a, (size_t)(n * ld) * sizeof *l);
        double *got = host_copy(dev, dev_info, sizeof info);
        assert_true(got[0] == 0 && got[1] == -5);
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < ld; j++) {
                double want = a[i * ld + j], sum = 0;
                for (int64_t k = 0; k <= j && j <= i; k++)
                    sum += l[i * ld + k] * l[j * ld + k];
                check_close("l l'", i * ld + j, j <= i ? sum : l[i * ld + j], want,
                            1e-13 * fabs(want) + 1e-12);
            }
        }
        free(a);
        free(l);
        free(got);
        device_release(dev);
    }
}

/* The pivot of a bad row is named, with what was left of it; what follows does nothing.
 */
static void potrf64_names_the_pivot(void **state) {
    struct device *dev = *state;

    static const struct {
        int64_t n, row;
        double pivot; /* NaN stays NaN, others are set exactly */
    } cases[] = {{1, 0, -2},        {5, 3, 0},     {5, 0, NAN},      {120, 77, -0.5},
                 {300, 299, -1e-3}, {64, 40, NAN}, {20, 7, INFINITY}};

    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t].n, row = cases[t].row;
        double *a = double_zeros(n * n), info[2] = {0, 0};
        for (int64_t i = 0; i < n; i++)
            a[i * n + i] = i == row ? cases[t].pivot : 4;
        double *dev_a = device_doubles(dev, a, n * n),
               *dev_info = device_doubles(dev, info, 2);
        mal_potrf64(dev->be, n, dev_a, 0, 1000, dev_info);
        double *got = host_copy(dev, dev_info, sizeof info);
        assert_true(got[0] == (double)(1000 + row + 1));
        check_close("pivot", row, got[1], cases[t].pivot, 0);
        free(got);

        mal_backend_upload(dev->be, dev_a, a, (size_t)(n * n) * sizeof *a);
        mal_potrf64(dev->be, n, dev_a, 0, 0, dev_info);
        double *untouched = host_copy(dev, dev_a, (size_t)(n * n) * sizeof *a);
        assert_memory_equal(untouched, a, (size_t)(n * n) * sizeof *a);
        free(untouched);
        free(a);
        device_release(dev);
    }
}

static void trsm64(void **state) {
    struct device *dev = *state;
    static const int64_t sizes[][2] = {{1, 1}, {5, 3}, {33, 64}, {100, 7}};
    for (size_t t = 0; t < 4 * sizeof sizes / sizeof sizes[0]; t++) {
        bool right = t & 1, trans = t & 2;
        int64_t m = sizes[t / 4][0], n = sizes[t / 4][1], size = right ? n : m;
        int64_t ldl = size + 2, ldb = n + 1;
        double *l = double_zeros(size * ldl), *b = double_zeros(m * ldb);
        for (int64_t i = 0; i < size; i++)
            for (int64_t j = 0; j < ldl; j++)
                l[i * ldl + j] = j > i ? NAN : i == j ? 3 : (double)random_float(dev) / 8;
        for (int64_t i = 0; i < m * ldb; i++)
            b[i] = (double)random_float(dev);
        double *dev_b = device_doubles(dev, b, m * ldb);
        mal_trsm64(dev->be, right, trans, m, n, device_doubles(dev, l, size * ldl), ldl,
                   dev_b, ldb);
        double *x = host_copy(dev, dev_b, (size_t)(m * ldb) * sizeof *x);
        for (int64_t i = 0; i < m; i++) {
            for (int64_t j = 0; j < n; j++) { /* op(l) x or x op(l) is b again */
                double sum = 0;
                for (int64_t k = 0; k < size; k++) {
                    int64_t row = right ? k : i, col = right ? j : k;
                    if (trans ? row > col : col > row) continue;
                    sum += (trans ? l[col * ldl + row] : l[row * ldl + col]) *
                           (right ? x[i * ldb + k] : x[k * ldb + j]);
                }
                check_close("trsm64", i * n + j, sum, b[i * ldb + j], 1e-12);
            }
            assert_true(x[i * ldb + n] == b[i * ldb + n]);
        }
        free(l);
        free(b);
        free(x);
        device_release(dev);
    }
}

/* x op(l) of the result is b again, whether blocks on l's diagonal were inverted or not.
 */
static void check_solved(int64_t m, int64_t n, bool first, const double *l, int64_t ldl,
                         const double *b, const double *x, int64_t ldb) {
    for (int64_t i = 0; i < m; i++) {
        for (int64_t j = 0; j < n; j++) {
            double sum = 0;
            for (int64_t k = first ? 0 : j; k < (first ? j + 1 : n); k++)
                sum += x[i * ldb + k] * (first ? l[j * ldl + k] : l[k * ldl + j]);
            check_close("solve_rows64", i * n + j, sum, b[i * ldb + j], 1e-12);
        }
        assert_true(x[i * ldb + n] == b[i * ldb + n]);
    }
}

static void solve_rows64(void **state) {
    struct device *dev = *state;
    /* of the most a device may make inverses where it was given none */
    static const int64_t rows[] = {1, 2, 3, 4, 8, 9, 70, 2100},
                         orders[] = {1, 5, 32, 33, 64, 100, 128, 200, 600};
    for (size_t t = 0; t < sizeof orders / sizeof *orders; t++) {
        int64_t n = orders[t], ldl = n + 2, ldb = n + 1;
        double *l = double_zeros(n * ldl);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < ldl; j++)
                l[i * ldl + j] = j > i    ? NAN
                                 : i == j ? 3
                                          : (double)random_float(dev) / 64;
        double *dev_l = device_doubles(dev, l, n * ldl);
        int64_t n_inverses = mal_inverses64(dev->be, n); /* not all of them are written */
        double *zeros = double_zeros(n_inverses);
        double *inverses = device_doubles(dev, zeros, n_inverses);
        free(zeros);
        mal_invert_blocks64(dev->be, n, dev_l, ldl, inverses);
        for (size_t k = 0; k < 4 * sizeof rows / sizeof *rows; k++) {
            if (rows[k / 4] > 1000 && n < 100) continue;
            bool first = k & 1, plain = k & 2;
            int64_t m = rows[k / 4];
            double *b = double_zeros(m * ldb);
            for (int64_t i = 0; i < m * ldb; i++)
                b[i] = (double)random_float(dev);
            double *dev_b = device_doubles(dev, b, m * ldb);
            mal_solve_rows64(dev->be, first, m, n, dev_l, ldl, plain ? NULL : inverses,
                             dev_b, ldb);
            double *x = host_copy(dev, dev_b, (size_t)(m * ldb) * sizeof *x);
            check_solved(m, n, first, l, ldl, b, x, ldb);
            free(b);
            free(x);
        }
        free(l);
        device_release(dev);
    }
}

static double dot64(int64_t n, const double *a, const double *b) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

static void qr64(void **state) {
    struct device *dev = *state;
    static const int64_t sizes[][2] = {{1, 1}, {7, 1}, {5, 5}, {100, 33}, {300, 130}};
    /* the libraries' own kernels take minutes under a sanitizer */
    size_t n_sizes = getenv("MAL_TEST_SANITIZED") ? 3 : sizeof sizes / sizeof sizes[0];
    for (size_t t = 0; t < n_sizes; t++) {
        int64_t m = sizes[t][0], n = sizes[t][1];
        double *a = double_zeros(n * m);
        for (int64_t i = 0; i < n * m; i++)
            a[i] = (double)random_float(dev);
        double *dev_a = device_doubles(dev, a, n * m),
               *dev_r = device_doubles(dev, NULL, n * n);
        mal_qr64(dev->be, m, n, dev_a, dev_r);
        double *q = host_copy(dev, dev_a, (size_t)(n * m) * sizeof *q);
        double *r = host_copy(dev, dev_r, (size_t)(n * n) * sizeof *r);
        for (int64_t i = 0; i < n; i++) {
            for (int64_t j = 0; j < n; j++) {
                check_close("q'q", i * n + j, dot64(m, q + i * m, q + j * m), i == j,
                            1e-13);
                if (j < i) assert_true(r[i * n + j] == 0);
            }
        }
        for (int64_t j = 0; j < n; j++) {
            for (int64_t i = 0; i < m; i++) {
                double sum = 0;
                for (int64_t k = 0; k <= j; k++)
                    sum += q[k * m + i] * r[k * n + j];
                check_close("q r", j * m + i, sum, a[j * m + i], 1e-12);
            }
        }
        free(a);
        free(q);
        free(r);
        device_release(dev);
    }
}

static void transpose_lower64(void **state) {
    struct device *dev = *state;
    static const int64_t sizes[] = {1, 2, 33, 300};
    for (size_t t = 0; t < sizeof sizes / sizeof *sizes; t++) {
        int64_t n = sizes[t];
        double *l = double_zeros(n * n);
        for (int64_t i = 0; i < n * n; i++)
            l[i] = i % n > i / n ? (double)NAN : (double)random_float(dev);
        double *y = device_doubles(dev, NULL, n * n);
        mal_transpose_lower64(dev->be, n, device_doubles(dev, l, n * n), y);
        double *got = host_copy(dev, y, (size_t)(n * n) * sizeof *got);
        for (int64_t i = 0; i < n; i++)
            for (int64_t j = 0; j < n; j++)
                assert_true(got[i * n + j] == (j < i ? 0 : l[j * n + i]));
        free(l);
        free(got);
        device_release(dev);
    }
}

/* Every number of 16 bits becomes fp32 and comes back; fp32 is rounded to nearest even.
 */
static void convert_16_bits(void **state) {
    struct device *dev = *state;

    enum { N = 1 << 16 };

    for (int f16 = 0; f16 < 2; f16++) {
        enum mal_dtype dtype = f16 ? MAL_F16 : MAL_BF16;
        uint16_t *all = calloc(N, sizeof *all);
        float *x = random_floats(dev, N);
        assert_non_null(all);
        for (int64_t i = 0; i < N; i++) {
            all[i] = (uint16_t)i;
            x[i] *= (float)pow(2.0, (double)(i % 60) - 40);
        }
        void *narrow = device_buffer(dev, all, N * sizeof *all);
        float *y = device_floats(dev, NULL, N), *dev_x = device_floats(dev, x, N);
        mal_convert(dev->be, N, y, MAL_F32, narrow, dtype);
        float *wide_all = host_floats(dev, y, N);
        mal_convert(dev->be, N, narrow, dtype, dev_x, MAL_F32);
        uint16_t *got = host_copy(dev, narrow, N * sizeof *got);
        for (int64_t i = 0; i < N; i++) {
            float want = f16 ? mal_f16_to_f32(all[i]) : mal_bf16_to_f32(all[i]);
            assert_memory_equal(&wide_all[i], &want, sizeof want);
            assert_int_equal(got[i], f16 ? mal_f32_to_f16(x[i]) : mal_f32_to_bf16(x[i]));
        }
        free(all);
        free(x);
        free(wide_all);
        free(got);
        device_release(dev);
    }
}

static void convert(void **state) {
    struct device *dev = *state;
    static const int64_t lengths[] = {0, 1, 17, 40001};
    for (size_t t = 0; t < sizeof lengths / sizeof lengths[0]; t++) {
        int64_t n = lengths[t];
        float *x = random_floats(dev, n);
        double *wide_x = wide(x, n);
        float *x32 = device_floats(dev, x, n), *y32 = device_floats(dev, NULL, n);
        double *x64 = device_doubles(dev, wide_x, n), *y64 = device_doubles(dev, NULL, n);
        mal_convert(dev->be, n, y64, MAL_F64, x32, MAL_F32);
        double *got64 = host_copy(dev, y64, (size_t)n * sizeof *got64);
        assert_memory_equal(got64, wide_x, (size_t)n * sizeof *wide_x);
        mal_convert(dev->be, n, y32, MAL_F32, x64, MAL_F64);
        mal_convert(dev->be, n, y64, MAL_F64, x64, MAL_F64);
        mal_convert(dev->be, n, x32, MAL_F32, y32, MAL_F32);
        float *got32 = host_floats(dev, x32, n);
        assert_memory_equal(got32, x, (size_t)n * sizeof *x);
        free(got32);
        free(got64);
        free(x);
        free(wide_x);
        device_release(dev);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gemm),

        cmocka_unit_test(gemm_of_nan_weights),
        cmocka_unit_test(convert_16_bits),
        cmocka_unit_test(gemm64),
        cmocka_unit_test(syrk64),
        cmocka_unit_test(potrf64),
        cmocka_unit_test(trsm64),
        cmocka_unit_test(solve_rows64),
        cmocka_unit_test(potrf64_names_the_pivot),
        cmocka_unit_test(qr64),
        cmocka_unit_test(transpose_lower64),
        cmocka_unit_test(convert),
    };
    return cmocka_run_group_tests_name("linalg", tests, device_open, device_close);
}
