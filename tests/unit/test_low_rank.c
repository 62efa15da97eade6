/* test_low_rank.c - a matrix as the product of two thin ones: exact where its rank
 * allows, else the nearest, from the matrix and from factors of it; out of memory. */
#include "made_model.h"
#include "no_memory.h"

#include "core/export/low_rank.h"

/* T = sum over k < rank of values[k] p_k q_k', p and q orthonormal. */
struct known {
    int64_t d_in, d_out, rank;
    double values[8];
};

/* What they are made on, wherever other tests run. */
static struct mal_backend *cpu(void) {
    static struct mal_backend *be;
    struct mal_error err = {0};
    if (!be) assert_ok(mal_backend_create(&be, "cpu", &err), &err);
    return be;
}

static double *orthonormal(int64_t rank, int64_t n, uint64_t seed) {
    struct mal_backend *be = cpu();
    float *x = random_floats(rank * n, 1, seed);
    double *q = mal_malloc((size_t)(rank * n) * sizeof *q), r[64];
    mal_convert(be, rank * n, q, MAL_F64, x, MAL_F32);
    mal_qr64(be, n, rank, q, r);
    mal_free(x);
    return q;
}

/* T, and factors of it, owned by the caller; those are scaled against each other, and
 * each term is there three times: once, taken away, and again. */
static float *make(const struct known *k, struct mal_export_factors *out) {
    double *p = orthonormal(k->rank, k->d_in, 1), *q = orthonormal(k->rank, k->d_out, 2);
    float *t = mal_calloc((size_t)(k->d_in * k->d_out), sizeof *t);
    int64_t n = 3 * k->rank;
    *out = (struct mal_export_factors){
        .rank = n,
        .left = mal_malloc((size_t)(n * k->d_in) * sizeof(float)),
        .right = mal_malloc((size_t)(n * k->d_out) * sizeof(float))};
    for (int64_t i = 0; i < k->d_in; i++) {
        for (int64_t j = 0; j < k->d_out; j++) {
            double sum = 0;
            for (int64_t r = 0; r < k->rank; r++)
                sum += k->values[r] * p[r * k->d_in + i] * q[r * k->d_out + j];
            t[i * k->d_out + j] = (float)sum;
        }
    }
    for (int64_t r = 0; r < n; r++) {
        int64_t s = r % k->rank;
        double sign = r / k->rank == 1 ? -1 : 1;
        for (int64_t i = 0; i < k->d_in; i++)
            out->left[r * k->d_in + i] = (float)(16 * p[s * k->d_in + i]);
        for (int64_t j = 0; j < k->d_out; j++)
            out->right[r * k->d_out + j] =
                (float)(sign / 16 * k->values[s] * q[s * k->d_out + j]);
    }
    mal_free(p);
    mal_free(q);
    return t;
}

static double norm(const double *values, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += values[i] * values[i];
    return sqrt(sum);
}

static double distance(const struct known *k, const float *t,
                       const struct mal_low_rank *low) {
    double lost = 0;
    for (int64_t i = 0; i < k->d_in; i++) {
        for (int64_t j = 0; j < k->d_out; j++) {
            double x = t[i * k->d_out + j];
            for (int64_t r = 0; r < low->rank; r++)
                x -= (double)low->left[r * k->d_in + i] * low->right[r * k->d_out + j];
            lost += x * x;
        }
    }
    return sqrt(lost);
}

/* From T alone and from factors. */
static void check(const struct known *k, int64_t max_rank) {
    struct mal_export_factors factors, none = {0};
    float *t = make(k, &factors);
    int64_t want = k->rank < max_rank ? k->rank : max_rank;
    double all = norm(k->values, k->rank), rest = norm(k->values + want, k->rank - want);
    for (int from_factors = 0; from_factors < 2; from_factors++) {
        struct mal_low_rank low = {0};
        struct mal_error err = {0};
        assert_ok(mal_low_rank_create(&low, cpu(), k->d_in, k->d_out, t,
                                      from_factors ? &factors : &none, max_rank, &err),
                  &err);
        assert_int_equal(low.rank, want);
        assert_true(fabs(low.norm - all) < 1e-6 * all);
        assert_true(fabs(low.error - rest) < 1e-6 * all);
        assert_true(fabs(low.error - distance(k, t, &low)) < 1e-12 * all);
        for (int64_t r = 0; r < low.rank; r++) { /* both sides hold as much */
            double a = 0, b = 0;
            for (int64_t i = 0; i < k->d_in; i++)
                a += (double)low.left[r * k->d_in + i] * low.left[r * k->d_in + i];
            for (int64_t j = 0; j < k->d_out; j++)
                b += (double)low.right[r * k->d_out + j] * low.right[r * k->d_out + j];
            assert_true(fabs(a - k->values[r]) < 1e-5 * k->values[0]);
            assert_true(fabs(b - k->values[r]) < 1e-5 * k->values[0]);
        }
        mal_low_rank_finish(&low);
    }
    mal_free(factors.left);
    mal_free(factors.right);
    mal_free(t);
}

static const struct known tall = {40, 24, 5, {8, 4, 3, 0.5, 1e-3}},
                          wide = {21, 50, 4, {1, 0.9, 0.8, 0.7}},
                          square = {16, 16, 3, {1e-6, 5e-7, 1e-8}};

static void test_exact(void **state) {
    check(&tall, 256);
    check(&wide, 4);
    check(&square, 3);
}

static void test_nearest(void **state) {
    check(&tall, 3);
    check(&wide, 1);
    check(&square, 2);
}

/* Factors as wide as T, or wider, are no help and not looked at. */
static void test_wide_factors(void **state) {
    struct known all = {12, 8, 8, {8, 7, 6, 5, 4, 3, 2, 1}};
    check(&all, 8);
    check(&all, 5);
}

static void test_zero(void **state) {
    float t[6] = {0, -0.0f};
    struct mal_export_factors none = {0};
    struct mal_low_rank low = {.rank = 7};
    struct mal_error err = {0};
    assert_ok(mal_low_rank_create(&low, cpu(), 2, 3, t, &none, 256, &err), &err);
    assert_int_equal(low.rank, 0);
    assert_null(low.left);
    t[5] = 1e-30f;
    assert_ok(mal_low_rank_create(&low, cpu(), 2, 3, t, &none, 256, &err), &err);
    assert_int_equal(low.rank, 1);
    assert_true(low.error < 1e-6 * low.norm);
    mal_low_rank_finish(&low);
}

static const float *one_t;
static const struct mal_export_factors *one_factors;

static bool create(const char *path, struct mal_error *err) {
    struct mal_low_rank low = {0};
    if (!mal_low_rank_create(&low, cpu(), tall.d_in, tall.d_out, one_t, one_factors, 3,
                             err)) {
        return false;
    }
    mal_low_rank_finish(&low);
    return true;
}

static void test_no_memory(void **state) {
    struct mal_export_factors factors, none = {0};
    float *t = make(&tall, &factors);
    one_t = t;
    one_factors = &factors;
    fail_each_allocation(create, NULL, 11);
    one_factors = &none;
    fail_each_allocation(create, NULL, 8);
    mal_free(factors.left);
    mal_free(factors.right);
    mal_free(t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_exact), cmocka_unit_test(test_nearest),
        cmocka_unit_test(test_wide_factors), cmocka_unit_test(test_zero),
        cmocka_unit_test(test_no_memory)};
    return cmocka_run_group_tests_name("low_rank", tests, NULL, NULL);
}
