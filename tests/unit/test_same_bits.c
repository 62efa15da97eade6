/* test_same_bits.c - a thousand deltas applied on the CPU and on the device under test:
 * accumulators and weights hash alike. */
#include "device.h"

#include "core/hash.h"

enum { DELTAS = 1000, MATRICES = 6, MOST = 200, MOST_RANK = 48 };

static const struct shape {
    int64_t d_in, d_out;
    bool transposed;
    enum mal_dtype dtype;
} shapes[MATRICES] = {
    {1, 1, false, MAL_F32},   {33, 70, false, MAL_BF16},  {128, 129, true, MAL_BF16},
    {200, 64, true, MAL_F16}, {127, 200, false, MAL_F16}, {150, 150, true, MAL_F32},
};

/* A matrix on one of the two: its base, what was added to it, their rounded sum. */
struct side {
    struct mal_backend *be;
    void *w0, *w;
    float *t, *delta; /* room for factors or a dense shift */
};

static void *bytes_on(struct mal_backend *be, size_t bytes) {
    void *mem = mal_backend_alloc(be, bytes);
    assert_non_null(mem);
    return mem;
}

static struct side open_side(struct mal_backend *be, const struct shape *s,
                             const void *w0) {
    size_t n = (size_t)(s->d_in * s->d_out), size = mal_dtype_size(s->dtype);
    struct side side = {.be = be,
                        .w0 = bytes_on(be, n * size),
                        .w = bytes_on(be, n * size),
                        .t = bytes_on(be, n * sizeof(float)),
                        .delta = bytes_on(be, 2 * MOST * MOST * sizeof(float))};
    mal_backend_upload(be, side.w0, w0, n * size);
    mal_backend_zero(be, side.t, n * sizeof(float));
    return side;
}

static void close_side(struct side *side) {
    mal_backend_free(side->be, side->w0);
    mal_backend_free(side->be, side->w);
    mal_backend_free(side->be, side->t);
    mal_backend_free(side->be, side->delta);
}

/* Numbers of a delta; rank 0: a dense shift. */
static int64_t size_of(const struct shape *s, int64_t rank) {
    return rank ? rank * (s->d_in + s->d_out) : s->d_in * s->d_out;
}

static void apply(struct side *side, const struct shape *s, int64_t rank,
                  const float *data) {
    int64_t n = size_of(s, rank);
    mal_backend_upload(side->be, side->delta, data, (size_t)n * sizeof *data);
    if (rank) {
        mal_apply_factors(side->be, s->d_in, s->d_out, rank, side->delta,
                          side->delta + rank * s->d_in, s->transposed, side->t);
    } else {
        mal_apply_dense(side->be, s->d_in, s->d_out, side->delta, s->transposed, side->t);
    }
    mal_round_weight(side->be, s->d_in * s->d_out, side->w0, side->t, s->dtype, side->w,
                     s->dtype);
}

/* Of the accumulator and the weight. */
static struct mal_hash hash_of(struct side *side, const struct shape *s) {
    struct mal_error err = {0};
    size_t n = (size_t)(s->d_in * s->d_out), bytes = n * mal_dtype_size(s->dtype);
    char *host = malloc(n * sizeof(float) + bytes);
    assert_non_null(host);
    mal_backend_download(side->be, host, side->t, n * sizeof(float));
    mal_backend_download(side->be, host + n * sizeof(float), side->w, bytes);
    assert_true(mal_backend_sync(side->be, &err));
    struct mal_hash hash = mal_hash_of(host, n * sizeof(float) + bytes);
    free(host);
    return hash;
}

static void a_thousand_deltas(void **state) {
    struct device *dev = *state;
    struct mal_error err = {0};
    struct mal_backend *cpu;
    struct side sides[MATRICES][2];
    assert_true(mal_backend_create(&cpu, "cpu", &err));
    for (size_t m = 0; m < MATRICES; m++) {
        int64_t n = shapes[m].d_in * shapes[m].d_out;
        float *w = random_floats(dev, n);
        void *w0 = malloc((size_t)n * sizeof(float));
        assert_non_null(w0);
        mal_from_f32(w0, w, shapes[m].dtype, (size_t)n);
        sides[m][0] = open_side(cpu, &shapes[m], w0);
        sides[m][1] = open_side(dev->be, &shapes[m], w0);
        free(w);
        free(w0);
    }
    for (int k = 0; k < DELTAS; k++) {
        size_t m = (size_t)k % MATRICES;
        int64_t rank = k % 7 == 0 ? 0 : 1 + (int64_t)(random_uniform(dev) * MOST_RANK);
        int64_t n = size_of(&shapes[m], rank);
        float *data = random_floats(dev, n);
        float scale = (float)pow(10, -1 - 4 * random_uniform(dev));
        for (int64_t i = 0; i < n; i++)
            data[i] *= scale;
        struct mal_hash hashes[2];
        for (int i = 0; i < 2; i++) {
            apply(&sides[m][i], &shapes[m], rank, data);
            hashes[i] = hash_of(&sides[m][i], &shapes[m]);
        }
        free(data);
        if (!mal_hash_equal(&hashes[0], &hashes[1]))
            fail_msg("delta %d of rank %lld: matrix %zu differs", k, (long long)rank, m);
    }
    for (size_t m = 0; m < MATRICES; m++) {
        close_side(&sides[m][0]);
        close_side(&sides[m][1]);
    }
    mal_backend_destroy(cpu);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(a_thousand_deltas)};
    return cmocka_run_group_tests_name("same_bits", tests, device_open, device_close);
}
