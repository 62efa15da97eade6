/* digest.c - SHA-256 and sums of squares of pieces of weights, the pieces side by side.
 */
#include <omp.h>

#include "core/cpu/cpu.h"
#include "core/simd.h"

enum { LANES = 8, BLOCK = 1024 /* elements widened at a time, whole lanes */ };

/* x (n), n a multiple of LANES: the same sums whatever the vectors' width. */
static MAL_SIMD void add_squares(const float *x, int64_t n, double sums[LANES]) {
    for (int64_t i = 0; i < n; i += LANES) {
        MAL_SIMD_LOOP
        for (int k = 0; k < LANES; k++)
            sums[k] += (double)x[i + k] * (double)x[i + k];
    }
}

static double sum_of_squares(const char *w, int64_t n, enum mal_dtype dtype) {
    double sums[LANES] = {0}, total = 0;
    float wide[BLOCK];
    for (int64_t i = 0, part; i < n; i += part) {
        part = n - i < BLOCK ? n - i : BLOCK;
        mal_to_f32(wide, w + (size_t)i * mal_dtype_size(dtype), dtype, (size_t)part);
        int64_t whole = part / LANES * LANES;
        add_squares(wide, whole, sums);
        for (int64_t k = whole; k < part; k++)
            total += (double)wide[k] * (double)wide[k];
    }
    for (int k = 0; k < LANES; k++)
        total += sums[k];
    return total;
}

/* `narrow`: room for a piece in another type than w's. */
static void digest_piece(const struct mal_pieces *run, int64_t piece, int64_t bytes,
                         char *narrow) {
    int64_t each = bytes / (int64_t)mal_dtype_size(run->dtype), from = piece * each;
    int64_t n = run->n - from < each ? run->n - from : each;
    const char *w = (const char *)run->w + (size_t)from * mal_dtype_size(run->w_dtype);
    const char *stored = w;
    if (run->dtype != run->w_dtype) {
        mal_from_f32(narrow, (const float *)(const void *)w, run->dtype, (size_t)n);
        stored = narrow;
    }
    run->sums[piece] = sum_of_squares(w, n, run->w_dtype);
    run->hashes[piece] = mal_hash_of(stored, (size_t)n * mal_dtype_size(run->dtype));
}

void mal_cpu_digest_pieces(struct mal_backend *be, int64_t bytes,
                           const struct mal_pieces *list, size_t n) {
    struct mal_cpu *cpu = (struct mal_cpu *)be;
    int64_t most = 0, room = cpu->n_work * (int64_t)sizeof *cpu->work / bytes;
    int threads = omp_get_max_threads();
    for (size_t i = 0; i < n; i++) {
        int64_t pieces = mal_n_pieces(&list[i], bytes);
        if (pieces > most) most = pieces;
    }
    if (threads > room) threads = (int)room;
#pragma omp parallel for schedule(dynamic) num_threads(threads)
    for (int64_t task = 0; task < (int64_t)n * most; task++) {
        const struct mal_pieces *run = &list[task % (int64_t)n];
        int64_t piece = task / (int64_t)n;
        if (piece < mal_n_pieces(run, bytes))
            digest_piece(run, piece, bytes,
                         (char *)cpu->work + omp_get_thread_num() * bytes);
    }
}
