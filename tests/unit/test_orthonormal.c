/* test_orthonormal.c - orthonormal rows and R of well and badly conditioned ones, of
 * equal ones, and of one; with a slice after every product, and cancelled in each. */
#include "edit_golden.h"

#include "core/editor/orthonormal.h"

struct rows {
    const char *name;
    int64_t n, m;
    double decay; /* row i is scaled by decay^(i/n) */
    double near;  /* rows are those before them but for so much; 1: their own */
};

static const struct rows all_rows[] = {{"one", 1, 7, 1, 1},
                                       {"one alone", 1, 1, 1, 1},
                                       {"square", 33, 33, 1, 1},
                                       {"even", 60, 700, 1, 1},
                                       {"of many sizes", 60, 300, 1e-12, 1},
                                       {"near each other", 40, 200, 1, 1e-6},
                                       {"nearly dependent", 40, 200, 1, 1e-11},
                                       {"equal", 40, 200, 1, 0},
                                       {"more than a panel", 530, 600, 1e-3, 1}};

static double *make_rows(const struct rows *r) {
    float *x = random_floats(r->n * r->m, 1, (uint64_t)(r->n + 7 * r->m));
    double *y = mal_malloc((size_t)(r->n * r->m) * sizeof *y);
    for (int64_t i = 0; i < r->n; i++) {
        double scale = pow(r->decay, (double)i / (double)r->n);
        for (int64_t j = 0; j < r->m; j++) {
            double own = (double)x[i * r->m + j];
            y[i * r->m + j] = i > 0 && r->near < 1 ? y[(i - 1) * r->m + j] + r->near * own
                                                   : scale * own;
        }
    }
    mal_free(x);
    return y;
}

struct result {
    struct mal_arena arena;
    double *x, *r; /* host */
    int ticks;
};

static bool count_tick(void *arg) {
    int *left = arg;
    return (*left)-- != 0;
}

static bool orthonormalise(const struct rows *rows, const double *y, int *ticks,
                           struct result *out, struct mal_error *err) {
    struct mal_backend *be = test_backend();
    size_t n = (size_t)(rows->n * rows->m), square = (size_t)(rows->n * rows->n);
    struct mal_pace pace = {.be = be, .tick = ticks ? count_tick : NULL, .arg = ticks};
    double *x = mal_backend_alloc(be, n * sizeof *x);
    const double *r = NULL;
    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    (void)mal_orthonormal_place(&counting, rows->n);
    *out = (struct result){.x = mal_malloc(n * sizeof *x),
                           .r = mal_malloc(square * sizeof *x)};
    assert_ok(mal_arena_init(&out->arena, be, counting.peak, err), err);
    struct mal_orthonormal buffers = mal_orthonormal_place(&out->arena, rows->n);
    mal_backend_upload(be, x, y, n * sizeof *x);
    bool ok = mal_orthonormalise(&pace, rows->n, rows->m, x, &buffers, &r, err);
    if (ok) {
        mal_backend_download(be, out->x, x, n * sizeof *x);
        mal_backend_download(be, out->r, r, square * sizeof *x);
        assert_ok(mal_backend_sync(be, err), err);
    }
    mal_backend_free(be, x);
    mal_arena_finish(&out->arena);
    return ok;
}

static void free_result(struct result *r) {
    mal_free(r->x);
    mal_free(r->r);
}

static double dot(int64_t n, const double *a, const double *b) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += a[i] * b[i];
    return sum;
}

/* Q'Q = I, R is triangular, and Q R is what there was, each row to its own size. */
static void check(const struct rows *rows, const double *y, const struct result *got) {
    int64_t n = rows->n, m = rows->m;
    double largest = 0;
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < n; j++) {
            double q = dot(m, got->x + i * m, got->x + j * m) - (i == j);
            if (!(fabs(q) < 1e-13)) fail_msg("%s: q'q %g", rows->name, q);
            if (j < i) assert_true(got->r[i * n + j] == 0);
        }
    }
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, sqrt(dot(m, y + i * m, y + i * m)));
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < m; j++) {
            double sum = -y[i * m + j];
            for (int64_t k = 0; k <= i; k++)
                sum += got->x[k * m + j] * got->r[k * n + i];
            if (!(fabs(sum) < 1e-13 * largest))
                fail_msg("%s: q r is %g off in row %lld", rows->name, sum, (long long)i);
        }
    }
}

static void test_all(void **state) {
    for (size_t t = 0; t < sizeof all_rows / sizeof *all_rows; t++) {
        struct mal_error err = {0};
        struct result got, sliced;
        double *y = make_rows(&all_rows[t]);
        int ticks = -1;
        assert_ok(orthonormalise(&all_rows[t], y, NULL, &got, &err), &err);
        check(&all_rows[t], y, &got);
        assert_ok(orthonormalise(&all_rows[t], y, &ticks, &sliced, &err), &err);
        assert_true(ticks < -3);
        check(&all_rows[t], y, &sliced);
        free_result(&got);
        free_result(&sliced);
        mal_free(y);
    }
}

static void test_cancel(void **state) {
    const struct rows *rows = &all_rows[3];
    double *y = make_rows(rows);
    int n = 0;
    for (bool ok = false; !ok; n++) {
        struct mal_error err = {0};
        struct result got;
        int left = n;
        ok = orthonormalise(rows, y, &left, &got, &err);
        if (!ok) assert_int_equal(err.status, MAL_CANCELLED);
        free_result(&got);
    }
    assert_true(n > 4);
    mal_free(y);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_all),
                                       cmocka_unit_test(test_cancel)};
    return cmocka_run_group_tests_name("orthonormal", tests, NULL, NULL);
}
