/* weights_digest.c - hashes weights on the host's cores, from slices of bounded size: the
 * device is one thread's, so slices of all tensors are fetched first and hashed in
 * parallel then. */
#include "core/weights_digest.h"

#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"

enum { SLICE = 1 << 19 }; /* elements of a tensor in one round */

struct lane {
    struct mal_hasher *hasher;
    char *raw;    /* SLICE of w_dtype */
    float *wide;  /* SLICE, for sums and conversion */
    char *narrow; /* SLICE of the checkpoint's dtype, where w_dtype is another */
    int64_t now;  /* elements in this round */
};

static void lanes_free(struct lane *lanes, size_t n) {
    for (size_t i = 0; lanes && i < n; i++) {
        mal_hasher_destroy(lanes[i].hasher);
        mal_free(lanes[i].raw);
        mal_free(lanes[i].wide);
        mal_free(lanes[i].narrow);
    }
    mal_free(lanes);
}

static struct lane *lanes_create(const struct mal_digest *digests, size_t n,
                                 struct mal_error *err) {
    struct lane *lanes = mal_calloc(n, sizeof *lanes);
    bool ok = lanes;
    for (size_t i = 0; ok && i < n; i++) {
        const struct mal_linear *lin = digests[i].linear;
        bool same = lin->dtype == lin->w_dtype;
        ok = mal_hasher_create(&lanes[i].hasher, err);
        lanes[i].raw = mal_malloc(SLICE * mal_dtype_size(lin->w_dtype));
        lanes[i].wide =
            lin->w_dtype == MAL_F32 ? NULL : mal_malloc(SLICE * sizeof(float));
        lanes[i].narrow = same ? NULL : mal_malloc(SLICE * mal_dtype_size(lin->dtype));
        ok = ok && lanes[i].raw && (lanes[i].wide || lin->w_dtype == MAL_F32) &&
             (lanes[i].narrow || same);
    }
    if (ok) return lanes;
    lanes_free(lanes, n);
    mal_fail(err, MAL_NO_MEMORY, "slices of weights");
    return NULL;
}

static double sum_squares(const float *x, int64_t n) {
    enum { LANES = 8 }; /* independent sums, so that the compiler can use vectors */

    double sums[LANES] = {0}, total = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int k = 0; k < LANES; k++)
            sums[k] += (double)x[i + k] * (double)x[i + k];
    }
    for (; i < n; i++)
        total += (double)x[i] * (double)x[i];
    for (int k = 0; k < LANES; k++)
        total += sums[k];
    return total;
}

/* Takes the slice in lane->raw into the tensor's hash and sum. */
static void digest_slice(struct lane *lane, struct mal_digest *digest) {
    const struct mal_linear *lin = digest->linear;
    if (lane->now == 0) return;
    const float *values = (const float *)(const void *)lane->raw;
    if (lane->wide) {
        mal_to_f32(lane->wide, lane->raw, lin->w_dtype, (size_t)lane->now);
        values = lane->wide;
    }
    digest->sum_squares += sum_squares(values, lane->now);
    const char *bytes = lane->raw;
    if (lane->narrow) { /* exact: they are values of that type */
        mal_from_f32(lane->narrow, values, lin->dtype, (size_t)lane->now);
        bytes = lane->narrow;
    }
    mal_hasher_add(lane->hasher, bytes, (size_t)lane->now * mal_dtype_size(lin->dtype));
}

static int64_t n_elements(const struct mal_digest *digest) {
    return digest->linear->d_in * digest->linear->d_out;
}

static bool digest_round(struct mal_backend *be, struct lane *lanes,
                         struct mal_digest *digests, size_t n, int64_t from,
                         struct mal_error *err) {
    for (size_t i = 0; i < n; i++) {
        int64_t left = n_elements(&digests[i]) - from;
        size_t size = mal_dtype_size(digests[i].linear->w_dtype);
        lanes[i].now = left < 0 ? 0 : left < SLICE ? left : SLICE;
        if (lanes[i].now == 0) continue;
        mal_backend_download(be, lanes[i].raw,
                             (const char *)digests[i].w + (size_t)from * size,
                             (size_t)lanes[i].now * size);
    }
    if (!mal_backend_sync(be, err)) return false;
#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < n; i++)
        digest_slice(&lanes[i], &digests[i]);
    return true;
}

bool mal_digest_weights(struct mal_backend *be, struct mal_digest *digests, size_t n,
                        void (*tick)(void *), void *tick_arg, struct mal_error *err) {
    struct lane *lanes = lanes_create(digests, n, err);
    if (!lanes) return false;
    int64_t longest = 0;
    for (size_t i = 0; i < n; i++) {
        digests[i].sum_squares = 0;
        if (n_elements(&digests[i]) > longest) longest = n_elements(&digests[i]);
    }
    bool ok = true;
    for (int64_t from = 0; ok && from < longest; from += SLICE) {
        ok = digest_round(be, lanes, digests, n, from, err);
        if (ok && tick) tick(tick_arg);
    }
    for (size_t i = 0; ok && i < n; i++)
        digests[i].hash = mal_hasher_end(lanes[i].hasher);
    lanes_free(lanes, n);
    return ok;
}

static int by_name(const void *a, const void *b) {
    const struct mal_named_digest *x = a, *y = b;
    return strcmp(x->linear->name, y->linear->name);
}

bool mal_digest_combine(struct mal_named_digest *named, size_t n, struct mal_hash *out,
                        struct mal_error *err) {
    struct mal_hasher *hasher;
    if (!mal_hasher_create(&hasher, err)) return false;
    qsort(named, n, sizeof *named, by_name);
    for (size_t i = 0; i < n; i++) {
        const struct mal_linear *lin = named[i].linear;
        mal_hasher_add_text(hasher, lin->name);
        mal_hasher_add_text(hasher, mal_dtype_name(lin->dtype));
        mal_hasher_add_u64(hasher, 2);
        mal_hasher_add_u64(hasher, (uint64_t)(lin->transposed ? lin->d_out : lin->d_in));
        mal_hasher_add_u64(hasher, (uint64_t)(lin->transposed ? lin->d_in : lin->d_out));
        mal_hasher_add(hasher, named[i].hash.bytes, sizeof named[i].hash.bytes);
    }
    *out = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    return true;
}
