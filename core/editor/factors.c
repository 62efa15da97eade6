/* factors.c - rounds a shift to what is stored, on the device, and measures what the
 * rounding costs. */
#include "core/editor/factors.h"

#include <math.h>

#include "core/alloc.h"

/* A part in the making. */
struct rounding {
    struct mal_backend *be;
    struct mal_delta_part part;
    char *data; /* device memory: the part's, or its own data where that is the host's */
    double *sums; /* device memory, two of each row that is rounded */
    double *host; /* those sums */
};

static bool begin(struct rounding *r, struct mal_backend *be,
                  const struct mal_delta_part *what, int64_t rows,
                  struct mal_error *err) {
    *r = (struct rounding){.be = be, .part = *what};
    size_t bytes = mal_delta_part_bytes(what), sums = 2 * (size_t)rows * sizeof *r->sums;
    r->part.module = mal_strdup(what->module);
    r->part.data = mal_malloc(bytes);
    r->host = mal_malloc(sums);
    r->data = mal_backend_on_host(be) ? r->part.data : mal_backend_alloc(be, bytes);
    r->sums = mal_backend_alloc(be, sums);
    if (r->part.module && r->part.data && r->host && r->data && r->sums) return true;
    return mal_fail(err, MAL_NO_MEMORY, "module '%s': the shift (%zu bytes)",
                    what->module, bytes);
}

/* Ends the work on a part: hands it out, or frees it. */
static bool end(struct rounding *r, bool ok, struct mal_delta_part *out,
                struct mal_error *err) {
    if (ok && !mal_backend_on_host(r->be))
        mal_backend_download(r->be, r->part.data, r->data,
                             mal_delta_part_bytes(&r->part));
    ok = ok && mal_backend_sync(r->be, err);
    if (!mal_backend_on_host(r->be)) mal_backend_free(r->be, r->data);
    mal_backend_free(r->be, r->sums);
    mal_free(r->host);
    if (ok) {
        *out = r->part;
        return true;
    }
    mal_free(r->part.module);
    mal_free(r->part.data);
    return false;
}

/* y = x (rows, columns) rounded, and the sums of its rows in r->host. */
static bool round_rows(struct rounding *r, int64_t rows, int64_t columns, const double *x,
                       bool transposed, void *y, struct mal_error *err) {
    mal_round_rows(r->be, rows, columns, x, transposed, y, r->part.dtype, r->sums);
    mal_backend_download(r->be, r->host, r->sums, 2 * (size_t)rows * sizeof *r->host);
    if (!mal_backend_sync(r->be, err)) return false;
    for (int64_t i = 0; i < rows; i++) {
        if (!isfinite(r->host[2 * i + 1])) {
            return mal_fail(err, MAL_NUMERIC,
                            "module '%s': the shift has a value that is NaN or beyond "
                            "fp32",
                            r->part.module);
        }
    }
    return true;
}

static void set_norms(struct mal_delta_part *part, double sum, double lost) {
    part->norm = sqrt(sum);
    part->rounding_error = sum > 0 ? sqrt(lost / sum) : 0;
}

bool mal_part_from_dense(struct mal_backend *be, const char *module, int64_t d_in,
                         int64_t d_out, enum mal_dtype dtype, const double *s,
                         struct mal_delta_part *out, struct mal_error *err) {
    struct rounding r;
    struct mal_delta_part what = {.module = (char *)module,
                                  .d_in = d_in,
                                  .d_out = d_out,
                                  .encoding = MAL_ENCODING_DENSE,
                                  .dtype = mal_delta_dtype(dtype)};
    bool ok = begin(&r, be, &what, d_in, err) &&
              round_rows(&r, d_in, d_out, s, false, r.data, err);
    double sum = 0, lost = 0;
    for (int64_t i = 0; ok && i < d_in; i++) {
        sum += r.host[2 * i];
        lost += r.host[2 * i + 1];
    }
    set_norms(&r.part, sum, lost);
    return end(&r, ok, out, err);
}

/* With orthonormal rows of q an error in row k of it costs as much of row k of right. */
bool mal_part_from_factors(struct mal_backend *be, const char *module, int64_t d_in,
                           int64_t d_out, int64_t rank, enum mal_dtype dtype,
                           const double *q, const double *right,
                           struct mal_delta_part *out, struct mal_error *err) {
    struct rounding r;
    struct mal_delta_part what = {.module = (char *)module,
                                  .d_in = d_in,
                                  .d_out = d_out,
                                  .rank = rank,
                                  .encoding = MAL_ENCODING_FACTORS,
                                  .dtype = mal_delta_dtype(dtype)};
    size_t left = (size_t)(d_in * rank) * mal_dtype_size(what.dtype);
    double sum = 0, lost = 0;
    bool ok = begin(&r, be, &what, rank, err);
    double *row = ok ? mal_malloc((size_t)rank * sizeof *row) : NULL;
    if (ok && !row) ok = mal_fail(err, MAL_NO_MEMORY, "module '%s': the shift", module);
    ok = ok && round_rows(&r, rank, d_out, right, false, r.data + left, err);
    for (int64_t k = 0; ok && k < rank; k++) {
        row[k] = r.host[2 * k];
        sum += row[k];
        lost += r.host[2 * k + 1];
    }
    ok = ok && round_rows(&r, rank, d_in, q, true, r.data, err);
    for (int64_t k = 0; ok && k < rank; k++)
        lost += r.host[2 * k + 1] * row[k];
    mal_free(row);
    set_norms(&r.part, sum, lost);
    return end(&r, ok, out, err);
}
