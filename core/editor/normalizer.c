/* normalizer.c - running statistics of (u, g) rows (core/README.md section 3): sums in
 * double, the state itself fp32 as in the editor file, so that a version's statistics
 * replay to the bit. */
#include "core/editor/normalizer.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <string.h>

#include "core/alloc.h"

bool mal_normalizer_init(struct mal_normalizer *norm, int64_t size,
                         struct mal_error *err) {
    assert(size > 0);
    *norm = (struct mal_normalizer){.size = size};
    norm->mean = mal_calloc((size_t)size, sizeof *norm->mean);
    norm->var = mal_calloc((size_t)size, sizeof *norm->var);
    norm->std = mal_calloc((size_t)size, sizeof *norm->std);
    if (norm->mean && norm->var && norm->std) return true;
    mal_normalizer_finish(norm);
    return mal_fail(err, MAL_NO_MEMORY, "normalizer of size %lld", (long long)size);
}

void mal_normalizer_finish(struct mal_normalizer *norm) {
    mal_free(norm->mean);
    mal_free(norm->var);
    mal_free(norm->std);
    *norm = (struct mal_normalizer){0};
}

bool mal_normalizer_copy(struct mal_normalizer *dst, const struct mal_normalizer *src,
                         struct mal_error *err) {
    if (!mal_normalizer_init(dst, src->size, err)) return false;
    size_t bytes = (size_t)src->size * sizeof(float);
    dst->n = src->n;
    memcpy(dst->mean, src->mean, bytes);
    memcpy(dst->var, src->var, bytes);
    memcpy(dst->std, src->std, bytes);
    return true;
}

void mal_normalizer_update(struct mal_normalizer *norm, int64_t rows, const double *mean,
                           const double *m2) {
    assert(rows >= 0);
    if (rows == 0) return;
    double n = (double)norm->n, b = (double)rows;
    double total = (double)(float)(n + b);
#pragma omp parallel for schedule(static) if (norm->size > 4096)
    for (int64_t i = 0; i < norm->size; i++) {
        double delta = mean[i] - (double)norm->mean[i];
        /* The unbiased variance of one row is 0 / 0; the reference gets NaN there. */
        double unbiased = rows > 1 ? m2[i] / (b - 1) : 0;
        double var = (double)norm->var[i] + b * unbiased + n * b * delta * delta / total;
        norm->mean[i] = (float)((double)norm->mean[i] + b * delta / total);
        norm->var[i] = (float)var;
        norm->std[i] = (float)sqrt(var / (total - 1 + (double)FLT_EPSILON));
    }
    norm->n = (float)total;
}

static void lift(float *std, int64_t n) {
    const double least = 0.01;
    double sum = 0, count = 0;
    for (int64_t i = 0; i < n; i++) {
        sum += (double)std[i];
        count += std[i] > 0;
    }
    float mean = (float)(sum / fmax(count, 1)), floor = (float)(least * (double)mean);
    for (int64_t i = 0; i < n; i++) {
        if (std[i] == 0)
            std[i] = mean;
        else if (std[i] < floor)
            std[i] = floor;
    }
}

void mal_normalizer_lift(struct mal_normalizer *norm, int64_t d_in) {
    lift(norm->std, d_in);
    lift(norm->std + d_in, norm->size - d_in);
}
