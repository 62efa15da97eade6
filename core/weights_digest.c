/* weights_digest.c - hashes weights where they are, piece by piece, and makes one of the
 * pieces. */
#include "core/weights_digest.h"

#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/arena.h"

/* Elements of a tensor that the host's cores hash between two ticks: whole pieces. */
enum { SLICE = 1 << 19 };

struct digesting {
    struct mal_backend *be;
    struct mal_digest *digests;
    struct mal_pieces *all, *slice; /* (n): of all elements, and of some */
    size_t n;
    struct mal_arena found; /* hashes and sums of all pieces, on the device */
    char *host;             /* the same on the host */
};

static void finish(struct digesting *d) {
    mal_arena_finish(&d->found);
    mal_free(d->all);
    mal_free(d->slice);
    mal_free(d->host);
}

static size_t n_pieces(const struct digesting *d, size_t i) {
    return (size_t)mal_n_pieces(&d->all[i], MAL_DIGEST_PIECE);
}

/* The layout: run on a counting arena first. */
static void place(struct digesting *d, struct mal_arena *arena) {
    for (size_t i = 0; i < d->n; i++) {
        size_t n = n_pieces(d, i);
        d->all[i].hashes = mal_arena_alloc(arena, n * sizeof(struct mal_hash));
        d->all[i].sums = mal_arena_alloc(arena, n * sizeof(double));
    }
}

static bool begin(struct digesting *d, struct mal_error *err) {
    struct mal_arena counting;
    mal_arena_init_counting(&counting);
    d->all = mal_calloc(d->n, sizeof *d->all);
    d->slice = mal_calloc(d->n, sizeof *d->slice);
    if (!d->all || !d->slice) return mal_fail(err, MAL_NO_MEMORY, "weight digests");
    for (size_t i = 0; i < d->n; i++) {
        const struct mal_linear *lin = d->digests[i].linear;
        d->all[i] = (struct mal_pieces){.w = d->digests[i].w,
                                        .n = lin->d_in * lin->d_out,
                                        .w_dtype = lin->w_dtype,
                                        .dtype = lin->dtype};
    }
    place(d, &counting);
    d->host = mal_malloc(counting.peak);
    if (!d->host) return mal_fail(err, MAL_NO_MEMORY, "weight digests");
    if (!mal_arena_init(&d->found, d->be, counting.peak, err)) return false;
    place(d, &d->found);
    mal_backend_zero(d->be, d->found.base, d->found.used); /* gaps are copied, too */
    return true;
}

/* Elements [from, from + n) of a tensor, `from` where a piece begins. */
static struct mal_pieces slice_of(const struct mal_pieces *all, int64_t from, int64_t n) {
    struct mal_pieces slice = *all;
    int64_t left = from < all->n ? all->n - from : 0;
    int64_t piece = from / (MAL_DIGEST_PIECE / (int64_t)mal_dtype_size(all->dtype));
    slice.n = left < n ? left : n;
    if (slice.n == 0) return slice;
    slice.w = (const char *)all->w + (size_t)from * mal_dtype_size(all->w_dtype);
    slice.hashes += piece;
    slice.sums += piece;
    return slice;
}

static int64_t longest(const struct digesting *d) {
    int64_t n = 0;
    for (size_t i = 0; i < d->n; i++)
        if (d->all[i].n > n) n = d->all[i].n;
    return n;
}

/* Another device has a thread for every piece: all of them take as long as one. */
static bool digest_pieces(struct digesting *d, void (*tick)(void *), void *tick_arg,
                          struct mal_error *err) {
    int64_t end = longest(d), step = mal_backend_on_host(d->be) ? SLICE : end;
    for (int64_t from = 0; from < end; from += step) {
        for (size_t i = 0; i < d->n; i++)
            d->slice[i] = slice_of(&d->all[i], from, step);
        mal_digest_pieces(d->be, MAL_DIGEST_PIECE, d->slice, d->n);
        if (!mal_backend_sync(d->be, err)) return false;
        if (tick) tick(tick_arg);
    }
    return true;
}

static const void *on_host(const struct digesting *d, const void *found) {
    return d->host + ((const char *)found - d->found.base);
}

/* The digests of tensors of those of their pieces. */
static bool join_pieces(struct digesting *d, struct mal_error *err) {
    mal_backend_download(d->be, d->host, d->found.base, d->found.used);
    if (!mal_backend_sync(d->be, err)) return false;
    for (size_t i = 0; i < d->n; i++) {
        struct mal_digest *digest = &d->digests[i];
        const double *sums = on_host(d, d->all[i].sums);
        size_t n = n_pieces(d, i);
        digest->hash =
            mal_hash_of(on_host(d, d->all[i].hashes), n * sizeof(struct mal_hash));
        digest->sum_squares = 0;
        for (size_t p = 0; p < n; p++)
            digest->sum_squares += sums[p];
    }
    return true;
}

/* ---- As a whole: a hash is one core's, so a core for each tensor ---- */

/* Of one tensor. */
struct lane {
    struct mal_hasher *hasher;
    char *raw;    /* a slice of w_dtype */
    char *narrow; /* and as it is stored */
};

static bool open_lanes(struct lane *lanes, size_t n, struct mal_error *err) {
    for (size_t i = 0; i < n; i++) {
        lanes[i].raw = mal_malloc(SLICE * sizeof(float));
        lanes[i].narrow = mal_malloc(SLICE * sizeof(uint16_t));
        if (!lanes[i].raw || !lanes[i].narrow)
            return mal_fail(err, MAL_NO_MEMORY, "slices of weights");
        if (!mal_hasher_create(&lanes[i].hasher, err)) return false;
    }
    return true;
}

static void close_lanes(struct lane *lanes, size_t n) {
    for (size_t i = 0; lanes && i < n; i++) {
        mal_hasher_destroy(lanes[i].hasher);
        mal_free(lanes[i].raw);
        mal_free(lanes[i].narrow);
    }
    mal_free(lanes);
}

static void add_slice(struct lane *lane, const struct mal_pieces *slice) {
    const char *stored = lane->raw;
    if (slice->dtype != slice->w_dtype) {
        mal_from_f32(lane->narrow, (const float *)(const void *)lane->raw, slice->dtype,
                     (size_t)slice->n);
        stored = lane->narrow;
    }
    mal_hasher_add(lane->hasher, stored, (size_t)slice->n * mal_dtype_size(slice->dtype));
}

static bool hash_slices(struct digesting *d, struct lane *lanes, void (*tick)(void *),
                        void *tick_arg, struct mal_error *err) {
    for (int64_t from = 0; from < longest(d); from += SLICE) {
        for (size_t i = 0; i < d->n; i++) {
            struct mal_pieces *slice = &d->slice[i];
            *slice = slice_of(&d->all[i], from, SLICE);
            mal_backend_download(d->be, lanes[i].raw, slice->w,
                                 (size_t)slice->n * mal_dtype_size(slice->w_dtype));
        }
        if (!mal_backend_sync(d->be, err)) return false;
#pragma omp parallel for schedule(dynamic)
        for (size_t i = 0; i < d->n; i++)
            add_slice(&lanes[i], &d->slice[i]);
        if (tick) tick(tick_arg);
    }
    return true;
}

static bool hash_whole(struct digesting *d, void (*tick)(void *), void *tick_arg,
                       struct mal_error *err) {
    struct lane *lanes = mal_calloc(d->n, sizeof *lanes);
    if (!lanes) return mal_fail(err, MAL_NO_MEMORY, "slices of weights");
    bool ok = open_lanes(lanes, d->n, err) && hash_slices(d, lanes, tick, tick_arg, err);
    for (size_t i = 0; ok && i < d->n; i++)
        d->digests[i].hash = mal_hasher_end(lanes[i].hasher);
    close_lanes(lanes, d->n);
    return ok;
}

bool mal_digest_weights(struct mal_backend *be, enum mal_digest_form form,
                        struct mal_digest *digests, size_t n, void (*tick)(void *),
                        void *tick_arg, struct mal_error *err) {
    struct digesting d = {.be = be, .digests = digests, .n = n, .found = {.be = be}};
    bool ok =
        begin(&d, err) && digest_pieces(&d, tick, tick_arg, err) && join_pieces(&d, err);
    if (ok && form == MAL_DIGEST_WHOLE) ok = hash_whole(&d, tick, tick_arg, err);
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
