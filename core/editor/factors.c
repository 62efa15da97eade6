/* factors.c - rounds a shift to what is stored, reading it from the device in slices of
 * bounded size, and measures on the way what the rounding cost. */
#include "core/editor/factors.h"

#include <math.h>

#include "core/alloc.h"

enum { SLICE = 1 << 20 }; /* doubles brought over at a time */

struct rounding {
    struct mal_backend *be;
    const char *module;
    double *slice; /* owned */
    int64_t room;  /* its doubles */
};

static int64_t max64(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static bool begin(struct rounding *r, struct mal_delta_part *part, struct mal_backend *be,
                  const struct mal_delta_part *what, int64_t room,
                  struct mal_error *err) {
    *part = *what;
    part->module = mal_strdup(what->module);
    part->data = mal_malloc(mal_delta_part_bytes(part));
    *r = (struct rounding){.be = be, .module = what->module, .room = room};
    r->slice = mal_malloc((size_t)room * sizeof *r->slice);
    if (part->module && part->data && r->slice) return true;
    return mal_fail(err, MAL_NO_MEMORY, "module '%s': the shift (%zu bytes)",
                    what->module, mal_delta_part_bytes(part));
}

/* Ends the work on a part: hands it out, or frees it. */
static bool end(struct rounding *r, bool ok, struct mal_delta_part *part,
                struct mal_delta_part *out) {
    mal_free(r->slice);
    if (ok) {
        *out = *part;
        return true;
    }
    mal_free(part->module);
    mal_free(part->data);
    return false;
}

static bool fetch(struct rounding *r, const double *src, int64_t n,
                  struct mal_error *err) {
    mal_backend_download(r->be, r->slice, src, (size_t)n * sizeof *src);
    return mal_backend_sync(r->be, err);
}

/* Rounds n values, each `stride` apart in dst; adds to the sums of squares. */
static bool round_values(const struct rounding *r, const double *src, int64_t n,
                         float *dst, int64_t stride, double *sum, double *lost,
                         struct mal_error *err) {
    double s = 0, e = 0;
    for (int64_t i = 0; i < n; i++) {
        float x = (float)src[i];
        double d = (double)x - src[i];
        dst[i * stride] = x;
        s += src[i] * src[i];
        e += d * d;
    }
    if (!isfinite(e)) {
        return mal_fail(err, MAL_NUMERIC,
                        "module '%s': the shift has a value that is NaN or beyond fp32",
                        r->module);
    }
    *sum += s;
    *lost += e;
    return true;
}

bool mal_part_from_dense(struct mal_backend *be, const char *module, int64_t d_in,
                         int64_t d_out, const double *s, struct mal_delta_part *out,
                         struct mal_error *err) {
    struct rounding r = {0};
    struct mal_delta_part part;
    struct mal_delta_part what = {.module = (char *)module,
                                  .d_in = d_in,
                                  .d_out = d_out,
                                  .encoding = MAL_ENCODING_DENSE};
    double sum = 0, lost = 0;
    bool ok = begin(&r, &part, be, &what, SLICE, err);
    for (int64_t i = 0; ok && i < d_in * d_out; i += SLICE) {
        int64_t n = d_in * d_out - i < SLICE ? d_in * d_out - i : SLICE;
        ok = fetch(&r, s + i, n, err) &&
             round_values(&r, r.slice, n, part.data + i, 1, &sum, &lost, err);
    }
    part.norm = sqrt(sum);
    part.rounding_error = sum > 0 ? sqrt(lost / sum) : 0;
    return end(&r, ok, &part, out);
}

bool mal_part_from_factors(struct mal_backend *be, const char *module, int64_t d_in,
                           int64_t d_out, int64_t rank, const double *q,
                           const double *right, struct mal_delta_part *out,
                           struct mal_error *err) {
    struct rounding r = {0};
    struct mal_delta_part part;
    struct mal_delta_part what = {.module = (char *)module,
                                  .d_in = d_in,
                                  .d_out = d_out,
                                  .rank = rank,
                                  .encoding = MAL_ENCODING_FACTORS};
    double sum = 0, lost = 0;
    int64_t width = max64(d_in, d_out);
    bool ok = begin(&r, &part, be, &what, width, err);
    for (int64_t k = 0; ok && k < rank; k++) {
        double row = 0, dq = 0, unit = 0;
        ok = fetch(&r, right + k * d_out, d_out, err) &&
             round_values(&r, r.slice, d_out, part.data + d_in * rank + k * d_out, 1,
                          &row, &lost, err) &&
             fetch(&r, q + k * d_in, d_in, err) &&
             round_values(&r, r.slice, d_in, part.data + k, rank, &unit, &dq, err);
        sum += row;
        lost += dq * row;
    }
    part.norm = sqrt(sum);
    part.rounding_error = sum > 0 ? sqrt(lost / sum) : 0;
    return end(&r, ok, &part, out);
}
