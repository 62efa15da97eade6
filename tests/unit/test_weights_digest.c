/* test_weights_digest.c - hashes and norms of weights against a plain reading of all
 * bytes, of every dtype, in both forms, for sizes around pieces and slices. */
#include "device.h"

#include "core/alloc.h"
#include "core/weights_digest.h"

enum { PIECE_16 = MAL_DIGEST_PIECE / 2, MANY = 5 * (1 << 19) + 12345 };

/* Side by side, so that they end in different rounds and pieces. */
static const struct {
    enum mal_dtype dtype, w_dtype;
    int64_t n;
} tensors[] = {
    {MAL_BF16, MAL_BF16, MANY},       {MAL_BF16, MAL_F32, PIECE_16 + 1},
    {MAL_F16, MAL_F16, PIECE_16},     {MAL_F16, MAL_F32, MANY / 2},
    {MAL_F32, MAL_F32, MANY / 3},     {MAL_F32, MAL_F32, 1},
    {MAL_BF16, MAL_BF16, 1 << 19},    {MAL_F32, MAL_F32, (1 << 19) + 1},
    {MAL_F16, MAL_F16, PIECE_16 - 1},
};

enum { N = sizeof tensors / sizeof tensors[0] };

static struct mal_hash in_pieces(const char *bytes, size_t n) {
    struct mal_hash hashes[64];
    size_t n_hashes = 0;
    for (size_t from = 0; from < n; from += MAL_DIGEST_PIECE) {
        size_t left = n - from;
        hashes[n_hashes++] =
            mal_hash_of(bytes + from, left < MAL_DIGEST_PIECE ? left : MAL_DIGEST_PIECE);
        assert_true(n_hashes < 64);
    }
    return mal_hash_of(hashes, n_hashes * sizeof hashes[0]);
}

struct made {
    struct mal_linear linears[N];
    struct mal_digest digests[N];
    struct mal_hash whole[N], pieces[N];
    double sums[N];
};

static void make(struct device *dev, size_t i, struct made *made) {
    int64_t n = tensors[i].n;
    size_t bytes = (size_t)n * mal_dtype_size(tensors[i].dtype);
    float *x = random_floats(dev, n);
    char *stored = malloc(bytes);
    assert_non_null(stored);
    mal_from_f32(stored, x, tensors[i].dtype, (size_t)n);
    mal_to_f32(x, stored, tensors[i].dtype, (size_t)n);
    made->whole[i] = mal_hash_of(stored, bytes);
    made->pieces[i] = in_pieces(stored, bytes);
    made->sums[i] = 0;
    for (int64_t k = 0; k < n; k++)
        made->sums[i] += (double)x[k] * (double)x[k];
    made->linears[i] = (struct mal_linear){
        .d_in = 1, .d_out = n, .dtype = tensors[i].dtype, .w_dtype = tensors[i].w_dtype};
    bool same = tensors[i].dtype == tensors[i].w_dtype;
    made->digests[i] = (struct mal_digest){
        .linear = &made->linears[i],
        .w = device_buffer(dev, same ? (const void *)stored : x,
                           (size_t)n * mal_dtype_size(tensors[i].w_dtype))};
    free(stored);
    free(x);
}

static void count_tick(void *arg) {
    ++*(int *)arg;
}

static void are_those_of_the_bytes(void **state) {
    struct device *dev = *state;
    static struct made made;
    for (size_t i = 0; i < N; i++)
        make(dev, i, &made);
    for (int form = MAL_DIGEST_PIECES; form <= MAL_DIGEST_WHOLE; form++) {
        struct mal_error err = {0};
        int n_ticks = 0;
        if (!mal_digest_weights(dev->be, (enum mal_digest_form)form, made.digests, N,
                                count_tick, &n_ticks, &err))
            fail_msg("%s", err.text);
        bool slices = mal_backend_on_host(dev->be) || form == MAL_DIGEST_WHOLE;
        assert_true(slices ? n_ticks > 2 : n_ticks > 0);
        for (size_t i = 0; i < N; i++) {
            const struct mal_hash *want =
                form == MAL_DIGEST_WHOLE ? &made.whole[i] : &made.pieces[i];
            if (!mal_hash_equal(&made.digests[i].hash, want))
                fail_msg("tensor %zu, form %d", i, form);
            assert_true(fabs(made.digests[i].sum_squares - made.sums[i]) <=
                        1e-12 * made.sums[i]);
        }
    }
    device_release(dev);
}

/* Of so many zeros, by another program (Python's hashlib). */
static const struct {
    int64_t n;
    const char *hex[2]; /* by form */
} known[] = {
    {1,
     {[MAL_DIGEST_PIECES] =
          "8cb9012517c817fead650287d61bdd9c68803b6bf9c64133dcab3e65b5a50cb9",
      [MAL_DIGEST_WHOLE] =
          "df3f619804a92fdb4057192dc43dd748ea778adc52bc498ce80524c014b81119"}},
    {65537,
     {[MAL_DIGEST_PIECES] =
          "466c1157ed23263f9834057c70811131d2f479715f3377864a57ddf6a5dc583b",
      [MAL_DIGEST_WHOLE] =
          "ccdfec163ea23ff794acfd1706b5abaf44298ff47b09721489ba6392c40e16ed"}},
};

static void check_known(struct device *dev, int64_t n, const char *const hex[2]) {
    float *zeros = calloc((size_t)n, sizeof *zeros);
    assert_non_null(zeros);
    struct mal_linear linear = {
        .d_in = 1, .d_out = n, .dtype = MAL_F32, .w_dtype = MAL_F32};
    struct mal_digest digest = {.linear = &linear, .w = device_floats(dev, zeros, n)};
    for (int form = MAL_DIGEST_PIECES; form <= MAL_DIGEST_WHOLE; form++) {
        struct mal_error err = {0};
        char found[MAL_HASH_HEX];
        assert_true(mal_digest_weights(dev->be, (enum mal_digest_form)form, &digest, 1,
                                       NULL, NULL, &err));
        mal_hash_hex(&digest.hash, found);
        assert_string_equal(found, hex[form]);
    }
    free(zeros);
    device_release(dev);
}

static void known_hashes(void **state) {
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        check_known(*state, known[i].n, known[i].hex);
}

/* A norm that is not finite says so in the sum. */
static void infinite_elements(void **state) {
    struct device *dev = *state;
    float *x = random_floats(dev, MANY / 3);
    struct mal_linear linear = {
        .d_in = 1, .d_out = MANY / 3, .dtype = MAL_F32, .w_dtype = MAL_F32};
    struct mal_error err = {0};
    x[MANY / 4] = INFINITY;
    struct mal_digest digest = {.linear = &linear, .w = device_floats(dev, x, MANY / 3)};
    assert_true(
        mal_digest_weights(dev->be, MAL_DIGEST_PIECES, &digest, 1, NULL, NULL, &err));
    assert_false(isfinite(digest.sum_squares));
    free(x);
    device_release(dev);
}

/* ---- The operation ---- */

enum { LENGTHS = 140, SHORT = 128 /* bytes of a piece */ };

/* Tensors of 0 to LENGTHS - 1 elements one behind the other: so they begin anywhere. */
struct lengths {
    enum mal_dtype dtype, w_dtype;
    int64_t n;  /* elements of all */
    char *w;    /* as the device has them, */
    char *bits; /* as they are hashed */
    float *x;
    struct mal_pieces list[LENGTHS];
    int64_t n_pieces;
};

static void fill(struct device *dev, struct lengths *all) {
    all->n = LENGTHS * (LENGTHS - 1) / 2;
    size_t n = (size_t)all->n;
    all->x = random_floats(dev, all->n);
    all->x[all->n - 3] = INFINITY;
    all->bits = malloc(n * mal_dtype_size(all->dtype));
    assert_non_null(all->bits);
    mal_from_f32(all->bits, all->x, all->dtype, n);
    mal_to_f32(all->x, all->bits, all->dtype, n);
    bool same = all->dtype == all->w_dtype;
    if (same) { /* a NaN that conversions would change: signalling */
        static const uint32_t nan32 = 0x7f800123;
        uint16_t nan16 = all->dtype == MAL_BF16 ? 0x7f81 : 0x7c01;
        size_t size = mal_dtype_size(all->dtype);
        memcpy(all->bits + (n - 1) * size, size == 4 ? (const void *)&nan32 : &nan16,
               size);
        all->x[n - 1] = NAN;
    }
    all->w = device_buffer(dev, same ? (const void *)all->bits : all->x,
                           n * mal_dtype_size(all->w_dtype));
    all->n_pieces = 0;
    for (int64_t k = 0, at = 0; k < LENGTHS; at += k++) {
        all->list[k] =
            (struct mal_pieces){.w = all->w + (size_t)at * mal_dtype_size(all->w_dtype),
                                .n = k,
                                .w_dtype = all->w_dtype,
                                .dtype = all->dtype};
        all->n_pieces += mal_n_pieces(&all->list[k], SHORT);
    }
}

static double plain_sum(const float *x, int64_t n) {
    double sums[8] = {0}, total = 0;
    for (int64_t i = 0; i < n; i++)
        *(i < n / 8 * 8 ? &sums[i % 8] : &total) += (double)x[i] * (double)x[i];
    for (int i = 0; i < 8; i++)
        total += sums[i];
    return total;
}

static void check_lengths(const struct lengths *all, const struct mal_hash *hashes,
                          const double *sums) {
    size_t size = mal_dtype_size(all->dtype);
    int64_t each = SHORT / (int64_t)size, piece = 0;
    for (int64_t k = 0, at = 0; k < LENGTHS; at += k++) {
        for (int64_t i = 0; i < k; i += each, piece++) {
            int64_t n = k - i < each ? k - i : each;
            struct mal_hash want =
                mal_hash_of(all->bits + (size_t)(at + i) * size, (size_t)n * size);
            double sum = plain_sum(all->x + at + i, n);
            if (!mal_hash_equal(&hashes[piece], &want) ||
                !(sums[piece] == sum || (isnan(sum) && isnan(sums[piece]))))
                fail_msg("dtypes %d, %d: piece at %lld of %lld", all->dtype, all->w_dtype,
                         (long long)i, (long long)k);
        }
    }
    assert_int_equal(piece, all->n_pieces);
}

static void pieces_of_every_length(void **state) {
    static const enum mal_dtype dtypes[][2] = {{MAL_F32, MAL_F32},
                                               {MAL_F16, MAL_F16},
                                               {MAL_BF16, MAL_BF16},
                                               {MAL_F16, MAL_F32},
                                               {MAL_BF16, MAL_F32}};
    struct device *dev = *state;
    for (size_t i = 0; i < sizeof dtypes / sizeof dtypes[0]; i++) {
        static struct lengths all;
        all.dtype = dtypes[i][0];
        all.w_dtype = dtypes[i][1];
        fill(dev, &all);
        size_t n = (size_t)all.n_pieces, n_done = 0;
        struct mal_hash *hashes = device_buffer(dev, NULL, n * sizeof *hashes);
        double *sums = device_doubles(dev, NULL, all.n_pieces);
        for (size_t k = 0; k < LENGTHS; k++) {
            all.list[k].hashes = hashes + n_done;
            all.list[k].sums = sums + n_done;
            n_done += (size_t)mal_n_pieces(&all.list[k], SHORT);
        }
        mal_digest_pieces(dev->be, SHORT, all.list, LENGTHS);
        struct mal_hash *found = host_copy(dev, hashes, n * sizeof *found);
        double *found_sums = host_copy(dev, sums, n * sizeof *found_sums);
        check_lengths(&all, found, found_sums);
        free(found);
        free(found_sums);
        free(all.x);
        free(all.bits);
        device_release(dev);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(are_those_of_the_bytes),
        cmocka_unit_test(known_hashes),
        cmocka_unit_test(infinite_elements),
        cmocka_unit_test(pieces_of_every_length),
    };
    return cmocka_run_group_tests(tests, device_open, device_close);
}
