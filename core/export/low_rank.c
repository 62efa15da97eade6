/* low_rank.c - singular vectors from the eigenvectors of the smaller Gram matrix, fp64.
 *
 * Products of fp32 values are exact there, so singular values are right down to 1e-8 of
 * the largest, below what T's own rounding to fp32 leaves; and the other side is T times
 * the vectors found, which is the best one for them however they were found. */
#include "core/export/low_rank.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/eigen.h"

/* left' right, fp64. */
struct pair {
    int64_t rank;
    double *left, *right; /* (rank, rows), (rank, cols), owned */
};

static double *doubles(int64_t n, struct mal_error *err) {
    double *x = mal_malloc((size_t)n * sizeof *x);
    if (!x)
        mal_fail(err, MAL_NO_MEMORY, "a low-rank form (%zu bytes)",
                 (size_t)n * sizeof *x);
    return x;
}

static void pair_finish(struct pair *pair) {
    mal_free(pair->left);
    mal_free(pair->right);
    *pair = (struct pair){0};
}

/* ---- Singular vectors ---- */

/* How many of the values (n), ascending squares, are needed. */
static int64_t choose_rank(int64_t n, const double *values, int64_t max_rank) {
    double total = 0;
    for (int64_t i = 0; i < n; i++)
        total += values[i] > 0 ? values[i] : 0;
    double rest = total;
    int64_t rank = 0;
    while (rank < n && rank < max_rank &&
           rest > MAL_LOW_RANK_EXACT * MAL_LOW_RANK_EXACT * total) {
        rest -= values[n - 1 - rank];
        rank++;
    }
    return rank;
}

/* The leading `*rank` unit vectors of the smaller side of x (rows, cols), the first
 * first. */
static double *leading(struct mal_backend *be, int64_t rows, int64_t cols, const void *x,
                       enum mal_dtype dtype, int64_t max_rank, int64_t *rank,
                       struct mal_error *err) {
    bool tall = rows >= cols;
    int64_t n = tall ? cols : rows;
    double *gram = doubles(n * n, err), *values = doubles(n, err), *basis = NULL;
    bool ok = gram && values;
    struct mal_gemm64 product = {.m = n,
                                 .n = n,
                                 .k = tall ? rows : cols,
                                 .a = x,
                                 .a_dtype = dtype,
                                 .lda = cols,
                                 .trans_a = tall,
                                 .b = x,
                                 .b_dtype = dtype,
                                 .ldb = cols,
                                 .trans_b = !tall,
                                 .c = gram,
                                 .alpha = 1};
    if (ok) mal_gemm64(be, &product);
    ok = ok && mal_eigen_symmetric(n, gram, values, err);
    *rank = ok ? choose_rank(n, values, max_rank) : 0;
    if (ok) basis = doubles(*rank * n, err);
    for (int64_t i = 0; basis && i < *rank; i++)
        memcpy(basis + i * n, gram + (n - 1 - i) * n, (size_t)n * sizeof *basis);
    mal_free(values);
    mal_free(gram);
    return basis;
}

static bool decompose(struct mal_backend *be, int64_t rows, int64_t cols, const void *x,
                      enum mal_dtype dtype, int64_t max_rank, struct pair *out,
                      struct mal_error *err) {
    bool tall = rows >= cols;
    int64_t rank = 0;
    double *basis = leading(be, rows, cols, x, dtype, max_rank, &rank, err);
    double *other = basis ? doubles(rank * (tall ? rows : cols), err) : NULL;
    if (!other) {
        mal_free(basis);
        return false;
    }
    struct mal_gemm64 product = {.m = rank,
                                 .n = tall ? rows : cols,
                                 .k = tall ? cols : rows,
                                 .a = basis,
                                 .a_dtype = MAL_F64,
                                 .b = x,
                                 .b_dtype = dtype,
                                 .ldb = cols,
                                 .trans_b = tall,
                                 .c = other,
                                 .alpha = 1};
    mal_gemm64(be, &product);
    *out = (struct pair){
        .rank = rank, .left = tall ? other : basis, .right = tall ? basis : other};
    return true;
}

/* Of left' right: with left' = Q R of a thin QR, what R right is made of, under Q. */
static bool decompose_factors(struct mal_backend *be, int64_t d_in, int64_t d_out,
                              const struct mal_export_factors *f, int64_t max_rank,
                              struct pair *out, struct mal_error *err) {
    int64_t k = f->rank;
    double *q = doubles(k * d_in, err), *r = doubles(k * k, err),
           *core = doubles(k * d_out, err), *left = NULL;
    struct pair inner = {0};
    bool ok = q && r && core;
    if (ok) {
        mal_convert(be, k * d_in, q, MAL_F64, f->left, MAL_F32);
        mal_qr64(be, d_in, k, q, r);
        struct mal_gemm64 product = {.m = k,
                                     .n = d_out,
                                     .k = k,
                                     .a = r,
                                     .a_dtype = MAL_F64,
                                     .b = f->right,
                                     .b_dtype = MAL_F32,
                                     .c = core,
                                     .alpha = 1};
        mal_gemm64(be, &product);
        ok = decompose(be, k, d_out, core, MAL_F64, max_rank, &inner, err);
    }
    ok = ok && (left = doubles(inner.rank * d_in, err));
    if (ok) {
        struct mal_gemm64 product = {.m = inner.rank,
                                     .n = d_in,
                                     .k = k,
                                     .a = inner.left,
                                     .a_dtype = MAL_F64,
                                     .b = q,
                                     .b_dtype = MAL_F64,
                                     .c = left,
                                     .alpha = 1};
        mal_gemm64(be, &product);
        *out = (struct pair){.rank = inner.rank, .left = left, .right = inner.right};
        inner.right = NULL;
    }
    pair_finish(&inner);
    mal_free(core);
    mal_free(r);
    mal_free(q);
    return ok;
}

/* ---- What is given out ---- */

static double norm_of(int64_t n, const double *x) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++)
        sum += x[i] * x[i];
    return sqrt(sum);
}

static void scale_to(int64_t n, double norm, double wanted, const double *x, float *y) {
    for (int64_t i = 0; i < n; i++)
        y[i] = norm > 0 ? (float)(x[i] * (wanted / norm)) : 0;
}

/* Both sides get the root of the singular value: what narrow types hold best. */
static bool round_pair(int64_t d_in, int64_t d_out, const struct pair *pair,
                       struct mal_low_rank *out, struct mal_error *err) {
    out->left = mal_malloc((size_t)(pair->rank * d_in) * sizeof(float));
    out->right = mal_malloc((size_t)(pair->rank * d_out) * sizeof(float));
    if (!out->left || !out->right) return mal_fail(err, MAL_NO_MEMORY, "a low-rank form");
    out->rank = pair->rank;
    for (int64_t i = 0; i < pair->rank; i++) {
        const double *left = pair->left + i * d_in, *right = pair->right + i * d_out;
        double a = norm_of(d_in, left), b = norm_of(d_out, right), root = sqrt(a * b);
        scale_to(d_in, a, root, left, out->left + i * d_in);
        scale_to(d_out, b, root, right, out->right + i * d_out);
    }
    return true;
}

/* Norms of T and of what it has beside the product. */
static bool measure(struct mal_backend *be, int64_t d_in, int64_t d_out, const float *t,
                    struct mal_low_rank *low, struct mal_error *err) {
    enum { SLICE = 1 << 20 };

    int64_t step = SLICE / d_out > 0 ? SLICE / d_out : 1;
    if (step > d_in) step = d_in;
    double *rest = doubles(step * d_out, err), all = 0, lost = 0;
    if (!rest) return false;
    for (int64_t i = 0; i < d_in; i += step) {
        int64_t rows = d_in - i < step ? d_in - i : step, n = rows * d_out;
        mal_convert(be, n, rest, MAL_F64, t + i * d_out, MAL_F32);
        double norm = norm_of(n, rest);
        struct mal_gemm64 product = {.m = rows,
                                     .n = d_out,
                                     .k = low->rank,
                                     .a = low->left + i,
                                     .a_dtype = MAL_F32,
                                     .lda = d_in,
                                     .trans_a = true,
                                     .b = low->right,
                                     .b_dtype = MAL_F32,
                                     .c = rest,
                                     .alpha = -1,
                                     .beta = 1};
        if (low->rank > 0) mal_gemm64(be, &product);
        double left = norm_of(n, rest);
        all += norm * norm;
        lost += left * left;
    }
    low->norm = sqrt(all);
    low->error = sqrt(lost);
    mal_free(rest);
    return true;
}

static bool is_zero(int64_t n, const float *t) {
    for (int64_t i = 0; i < n; i++)
        if (t[i] != 0) return false;
    return true;
}

bool mal_low_rank_create(struct mal_low_rank *out, struct mal_backend *be, int64_t d_in,
                         int64_t d_out, const float *t,
                         const struct mal_export_factors *factors, int64_t max_rank,
                         struct mal_error *err) {
    struct mal_low_rank low = {0};
    struct pair pair = {0};
    if (is_zero(d_in * d_out, t)) {
        *out = low;
        return true;
    }
    int64_t full = d_in < d_out ? d_in : d_out;
    bool thin = factors->rank > 0 && factors->rank < full;
    bool ok = thin ? decompose_factors(be, d_in, d_out, factors, max_rank, &pair, err)
                   : decompose(be, d_in, d_out, t, MAL_F32, max_rank, &pair, err);
    ok = ok && round_pair(d_in, d_out, &pair, &low, err) &&
         measure(be, d_in, d_out, t, &low, err);
    pair_finish(&pair);
    if (!ok) {
        mal_low_rank_finish(&low);
        return false;
    }
    *out = low;
    return true;
}

void mal_low_rank_finish(struct mal_low_rank *low) {
    mal_free(low->left);
    mal_free(low->right);
    *low = (struct mal_low_rank){0};
}
