/* weights_digest.c - hashes weights on the host's cores, from slices of bounded size: the
 * device is one thread's, so slices of all tensors are fetched in rounds, and a round is
 * hashed in parallel. */
#include "core/weights_digest.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/simd.h"

/* Elements of a tensor in one round, times the device's breadth: whole pieces. */
enum { SLICE = 1 << 19 };

struct lane {
    struct mal_hasher *hasher;
    char *raw[2];  /* a round of w_dtype, and the one after it */
    float *wide;   /* a round, for sums */
    char *narrow;  /* a round in the checkpoint's dtype, where w_dtype is fp32 */
    int64_t piece; /* elements */
    struct mal_hash *hashes; /* of a round's pieces */
    double *sums;
};

struct digesting {
    struct mal_backend *be;
    enum mal_digest_form form;
    struct mal_digest *digests;
    struct lane *lanes;
    size_t n;
    int64_t slice;
    char *raw; /* of all lanes */
};

static void finish(struct digesting *d) {
    for (size_t i = 0; d->lanes && i < d->n; i++) {
        mal_hasher_destroy(d->lanes[i].hasher);
        mal_free(d->lanes[i].wide);
        mal_free(d->lanes[i].narrow);
        mal_free(d->lanes[i].hashes);
        mal_free(d->lanes[i].sums);
    }
    mal_free(d->lanes);
    mal_backend_free_host(d->be, d->raw);
}

static size_t n_pieces(const struct lane *lane, int64_t n) {
    return (size_t)((n + lane->piece - 1) / lane->piece);
}

static bool begin_lane(struct digesting *d, size_t i, char **raw, struct mal_error *err) {
    const struct mal_linear *lin = d->digests[i].linear;
    struct lane *lane = &d->lanes[i];
    size_t n = (size_t)d->slice, bytes = n * mal_dtype_size(lin->w_dtype);
    bool same = lin->dtype == lin->w_dtype;
    assert(same || lin->w_dtype == MAL_F32);
    lane->raw[0] = *raw;
    lane->raw[1] = *raw + bytes;
    *raw += 2 * bytes;
    lane->wide = lin->w_dtype == MAL_F32 ? NULL : mal_malloc(n * sizeof(float));
    lane->narrow = same ? NULL : mal_malloc(n * mal_dtype_size(lin->dtype));
    lane->piece = MAL_DIGEST_PIECE / (int64_t)mal_dtype_size(lin->dtype);
    lane->hashes = mal_calloc(n_pieces(lane, d->slice), sizeof *lane->hashes);
    lane->sums = mal_calloc(n_pieces(lane, d->slice), sizeof *lane->sums);
    if ((!lane->wide && lin->w_dtype != MAL_F32) || (!lane->narrow && !same) ||
        !lane->hashes || !lane->sums)
        return mal_fail(err, MAL_NO_MEMORY, "slices of weights");
    return mal_hasher_create(&lane->hasher, err);
}

static bool begin(struct digesting *d, struct mal_error *err) {
    size_t bytes = 0;
    for (size_t i = 0; i < d->n; i++)
        bytes += 2 * (size_t)d->slice * mal_dtype_size(d->digests[i].linear->w_dtype);
    d->lanes = mal_calloc(d->n, sizeof *d->lanes);
    d->raw = mal_backend_alloc_host(d->be, bytes);
    if (!d->lanes || !d->raw) return mal_fail(err, MAL_NO_MEMORY, "slices of weights");
    char *raw = d->raw;
    for (size_t i = 0; i < d->n; i++) {
        d->digests[i].sum_squares = 0;
        if (!begin_lane(d, i, &raw, err)) return false;
    }
    return true;
}

/* Eight sums, each of every eighth element: the same whatever the vectors' width. */
static MAL_SIMD double sum_squares(const float *x, int64_t n) {
    enum { LANES = 8 };

    double sums[LANES] = {0}, total = 0;
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        MAL_SIMD_LOOP
        for (int k = 0; k < LANES; k++)
            sums[k] += (double)x[i + k] * (double)x[i + k];
    }
    for (; i < n; i++)
        total += (double)x[i] * (double)x[i];
    for (int k = 0; k < LANES; k++)
        total += sums[k];
    return total;
}

static int64_t n_elements(const struct mal_digest *digest) {
    return digest->linear->d_in * digest->linear->d_out;
}

/* Elements of a tensor in the round that begins at `from`. */
static int64_t in_round(const struct digesting *d, size_t i, int64_t from) {
    int64_t left = n_elements(&d->digests[i]) - from;
    return left < 0 ? 0 : left < d->slice ? left : d->slice;
}

static void fetch(const struct digesting *d, int64_t from, int half) {
    for (size_t i = 0; i < d->n; i++) {
        size_t size = mal_dtype_size(d->digests[i].linear->w_dtype);
        int64_t n = in_round(d, i, from);
        if (n == 0) continue;
        mal_backend_download(d->be, d->lanes[i].raw[half],
                             (const char *)d->digests[i].w + (size_t)from * size,
                             (size_t)n * size);
    }
}

/* Piece p of a round's n elements: where it begins, and how many elements it has. */
static int64_t piece_of(const struct lane *lane, size_t p, int64_t n, int64_t *out_n) {
    int64_t from = (int64_t)p * lane->piece, left = n - from;
    *out_n = left < lane->piece ? left : lane->piece;
    return from;
}

static void sum_piece(const struct digesting *d, size_t i, int half, int64_t n,
                      size_t p) {
    struct lane *lane = &d->lanes[i];
    enum mal_dtype dtype = d->digests[i].linear->w_dtype;
    int64_t from = piece_of(lane, p, n, &n);
    const char *raw = lane->raw[half] + (size_t)from * mal_dtype_size(dtype);
    const float *values = (const float *)(const void *)raw;
    if (lane->wide) {
        mal_to_f32(lane->wide + from, raw, dtype, (size_t)n);
        values = lane->wide + from;
    }
    lane->sums[p] = sum_squares(values, n);
}

/* n elements of a round from `from` on, as the checkpoint has them. */
static const char *stored_bytes(const struct digesting *d, size_t i, int half,
                                int64_t from, int64_t n) {
    struct lane *lane = &d->lanes[i];
    const struct mal_linear *lin = d->digests[i].linear;
    const char *raw = lane->raw[half] + (size_t)from * mal_dtype_size(lin->w_dtype);
    if (!lane->narrow) return raw;
    /* exact: they are values of that type, kept as fp32 */
    char *narrow = lane->narrow + (size_t)from * mal_dtype_size(lin->dtype);
    mal_from_f32(narrow, (const float *)(const void *)raw, lin->dtype, (size_t)n);
    return narrow;
}

static void hash_piece(const struct digesting *d, size_t i, int half, int64_t n,
                       size_t p) {
    struct lane *lane = &d->lanes[i];
    size_t size = mal_dtype_size(d->digests[i].linear->dtype);
    int64_t from = piece_of(lane, p, n, &n);
    lane->hashes[p] = mal_hash_of(stored_bytes(d, i, half, from, n), (size_t)n * size);
}

static void hash_whole(const struct digesting *d, size_t i, int half, int64_t n) {
    size_t size = mal_dtype_size(d->digests[i].linear->dtype);
    mal_hasher_add(d->lanes[i].hasher, stored_bytes(d, i, half, 0, n), (size_t)n * size);
}

/* Of a round that is there: all pieces side by side, what comes of them in order. */
static void digest_round(const struct digesting *d, int64_t from, int half) {
    const size_t most = (size_t)(d->slice / (MAL_DIGEST_PIECE / (int64_t)sizeof(float)));
    const bool whole = d->form == MAL_DIGEST_WHOLE;
#pragma omp parallel for schedule(dynamic)
    for (size_t task = 0; task < 2 * d->n * most; task++) { /* the longer ones first */
        size_t i = task % d->n, p = task / d->n % most;
        int64_t n = in_round(d, i, from);
        if (task >= d->n * most) {
            if (p < n_pieces(&d->lanes[i], n)) sum_piece(d, i, half, n, p);
        } else if (whole) {
            if (p == 0 && n > 0) hash_whole(d, i, half, n);
        } else if (p < n_pieces(&d->lanes[i], n)) {
            hash_piece(d, i, half, n, p);
        }
    }
    for (size_t i = 0; i < d->n; i++) {
        const struct lane *lane = &d->lanes[i];
        size_t n = n_pieces(lane, in_round(d, i, from));
        for (size_t p = 0; p < n; p++)
            d->digests[i].sum_squares += lane->sums[p];
        if (!whole) mal_hasher_add(lane->hasher, lane->hashes, n * sizeof *lane->hashes);
    }
}

/* A round is hashed while the next one is on its way. */
static bool digest_all(const struct digesting *d, void (*tick)(void *), void *tick_arg,
                       struct mal_error *err) {
    int64_t longest = 0;
    int half = 0;
    for (size_t i = 0; i < d->n; i++)
        if (n_elements(&d->digests[i]) > longest) longest = n_elements(&d->digests[i]);
    fetch(d, 0, half);
    for (int64_t from = 0; from < longest; from += d->slice, half = !half) {
        if (!mal_backend_sync(d->be, err)) return false;
        fetch(d, from + d->slice, !half);
        digest_round(d, from, half);
        if (tick) tick(tick_arg);
    }
    return true;
}

bool mal_digest_weights(struct mal_backend *be, enum mal_digest_form form,
                        struct mal_digest *digests, size_t n, void (*tick)(void *),
                        void *tick_arg, struct mal_error *err) {
    struct digesting d = {.be = be,
                          .form = form,
                          .digests = digests,
                          .n = n,
                          .slice = SLICE * mal_backend_breadth(be)};
    bool ok = begin(&d, err) && digest_all(&d, tick, tick_arg, err);
    for (size_t i = 0; ok && i < n; i++)
        digests[i].hash = mal_hasher_end(d.lanes[i].hasher);
    finish(&d);
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
        int64_t rows = lin->transposed ? lin->d_out : lin->d_in;
        mal_hasher_add_text(hasher, lin->name);
        mal_hasher_add_text(hasher, mal_dtype_name(lin->dtype));
        mal_hasher_add_u64(hasher, lin->bias_of ? 1 : 2);
        if (!lin->bias_of) mal_hasher_add_u64(hasher, (uint64_t)rows);
        mal_hasher_add_u64(hasher, (uint64_t)(lin->transposed ? lin->d_in : lin->d_out));
        mal_hasher_add(hasher, named[i].hash.bytes, sizeof named[i].hash.bytes);
    }
    *out = mal_hasher_end(hasher);
    mal_hasher_destroy(hasher);
    return true;
}
