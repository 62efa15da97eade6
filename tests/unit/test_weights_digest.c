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
        assert_true(n_ticks > 1);
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

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(are_those_of_the_bytes),
        cmocka_unit_test(known_hashes),
        cmocka_unit_test(infinite_elements),
    };
    return cmocka_run_group_tests(tests, device_open, device_close);
}
