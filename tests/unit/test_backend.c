/* test_backend.c - choosing a device, its memory and sticky errors, and every forward
 * operation of the transformer and the editors against plain loops in double. */
#include "device.h"

#include <float.h>

#include "core/alloc.h"
#include "core/arena.h"
#include "core/backend_impl.h"
#include "reference.h"

/* ---- The device itself ---- */

static void devices_by_name(void **state) {
    static const struct {
        const char *device;
        enum mal_status status;
    } cases[] = {{"cpu", MAL_OK},
                 {"auto", MAL_OK},
                 {"cuda", MAL_INVALID},
                 {"cuda:0:", MAL_INVALID},
                 {"cuda:0:fp16", MAL_INVALID},
                 {"cuda:99:fp32", MAL_DEVICE},
                 {"cuda:", MAL_INVALID},
                 {"cuda:x", MAL_INVALID},
                 {"cuda:1x", MAL_INVALID},
                 {"cuda:-1", MAL_INVALID},
                 {"cpu:0", MAL_INVALID},
                 {"", MAL_INVALID},
                 {"CPU", MAL_INVALID},
                 {"cuda:99", MAL_DEVICE},
                 {"rocm:0", MAL_INVALID}};

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct mal_backend *be = NULL;
        struct mal_error err = {0};
        bool made = mal_backend_create(&be, cases[i].device, &err);
        assert_int_equal(err.status, cases[i].status);
        assert_int_equal(made, cases[i].status == MAL_OK);
        if (!made) {
            assert_null(be);
            assert_true(err.text[0] != '\0');
            continue;
        }
        /* "auto" may have found a device */
        bool cuda = strcmp(mal_backend_name(be), "cuda:0") == 0;
        if (!cuda || strcmp(cases[i].device, "auto") != 0)
            assert_string_equal(mal_backend_name(be), "cpu");
        assert_true(strlen(mal_backend_describe(be)) > 10);
        mal_backend_destroy(be);
    }
    mal_backend_destroy(NULL);
}

static void creation_without_memory(void **state) {
    for (long n = 1;; n++) {
        struct mal_backend *be = NULL;
        struct mal_error err = {0};
        mal_alloc_fail_at(n);
        bool made = mal_backend_create(&be, "cpu", &err);
        mal_alloc_fail_at(0);
        mal_backend_destroy(be);
        if (made) {
            assert_true(n > 1);
            return;
        }
        assert_null(be);
        assert_int_equal(err.status, MAL_NO_MEMORY);
    }
}

static void memory(void **state) {
    struct device *dev = *state;
    struct mal_backend *be = dev->be;
    char host[100], back[100] = {0};
    for (size_t i = 0; i < sizeof host; i++)
        host[i] = (char)(i * 7);
    char *a = mal_backend_alloc(be, sizeof host), *b = mal_backend_alloc(be, sizeof host);
    void *large = mal_backend_alloc(be, 9 << 20), *nothing = mal_backend_alloc(be, 0);
    assert_non_null(a);
    assert_non_null(b);
    assert_non_null(large);
    assert_int_equal((uintptr_t)a % 64 | (uintptr_t)b % 64 | (uintptr_t)large % 64, 0);
    assert_int_equal(mal_backend_bytes(be), 2 * sizeof host + (9 << 20));
    mal_backend_zero(be, large, 9 << 20);
    mal_backend_upload(be, a, host, sizeof host);
    mal_backend_copy(be, b, a, sizeof host);
    mal_backend_zero(be, b + 10, 5);
    mal_backend_download(be, back, b, sizeof back);
    struct mal_error err = {0};
    assert_true(mal_backend_sync(be, &err));
    for (size_t i = 0; i < sizeof host; i++)
        assert_int_equal(back[i], i >= 10 && i < 15 ? 0 : host[i]);
    mal_backend_free(be, a);
    mal_backend_free(be, b);
    mal_backend_free(be, large);
    mal_backend_free(be, nothing);
    mal_backend_free(be, NULL);
    assert_int_equal(mal_backend_bytes(be), 0);
    assert_null(mal_backend_alloc(be, SIZE_MAX - 10));
    assert_true(mal_backend_sync(be, &err));
}

/* Copies of what a device may take through memory of its own, a part at a time: to what
 * it was, and beside nothing. */
static void copies(void **state) {
    static const size_t sizes[] = {1, 70000, 131073, 200003, (100 << 20) + 13};
    struct device *dev = *state;
    struct mal_error err = {0};
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        size_t n = sizes[s];
        unsigned char *host = malloc(n + 2), *back = malloc(n + 2);
        unsigned char *a = mal_backend_alloc(dev->be, n);
        assert_true(host && back && a);
        for (size_t i = 0; i < n + 2; i++)
            host[i] = (unsigned char)(i * 31 + i / 253);
        memset(back, 0x5a, n + 2);
        mal_backend_upload(dev->be, a, host + 1, n);
        mal_backend_download(dev->be, back + 1, a, n);
        assert_true(mal_backend_sync(dev->be, &err));
        assert_memory_equal(back + 1, host + 1, n);
        assert_true(back[0] == 0x5a && back[n + 1] == 0x5a);
        mal_backend_free(dev->be, a);
        free(host);
        free(back);
    }
}

static void a_device_error_sticks(void **state) {
    struct device *dev = *state;
    const float x[3] = {1, 2, 3};
    float *y = device_floats(dev, x, 3);
    float *z = device_floats(dev, x, 3);
    assert_int_equal(dev->be->error.status, MAL_OK);
    mal_add(dev->be, 3, y, z);
    mal_fail(&dev->be->error, MAL_DEVICE, "kernel 7 fell over");
    mal_fail(&dev->be->error, MAL_DEVICE, "and another");
    mal_add(dev->be, 3, y, z);
    mal_backend_zero(dev->be, z, 4);
    assert_null(mal_backend_alloc(dev->be, 16));
    struct mal_error named = {0};
    mal_fail(&named, MAL_CORRUPT, "a file");
    mal_backend_name_failure(dev->be, &named);
    assert_string_equal(named.text, "a file");
    named = (struct mal_error){0};
    mal_fail(&named, MAL_NO_MEMORY, "keys");
    mal_backend_name_failure(dev->be, &named);
    assert_int_equal(named.status, MAL_DEVICE);
    assert_string_equal(named.text, "kernel 7 fell over");
    for (int i = 0; i < 2; i++) {
        struct mal_error err = {0};
        assert_false(mal_backend_sync(dev->be, &err));
        assert_int_equal(err.status, MAL_DEVICE);
        assert_string_equal(err.text, "kernel 7 fell over");
    }
    dev->be->error = (struct mal_error){0};
    float *got = host_floats(dev, z, 3);
    assert_true(got[0] == 2 && got[1] == 4 && got[2] == 6);
    free(got);
    device_release(dev);
}

static void nothing_to_do(void **state) {
    struct device *dev = *state;
    struct mal_error err = {0};
    mal_add(dev->be, 0, NULL, NULL);
    mal_act_fwd(dev->be, MAL_SILU, 0, 0, NULL, NULL, NULL, MAL_F32);
    mal_norm_fwd(dev->be, &(struct mal_norm){.n = 0, .c = 5}, NULL, NULL, MAL_F32);
    mal_gemm(dev->be, &(struct mal_gemm){.m = 0, .n = 3, .k = 3});
    mal_attn_fwd(dev->be, &(struct mal_attn){0}, NULL, MAL_F32, 0, NULL);
    mal_xent_fwd(dev->be, 0, 7, NULL, NULL, NULL, NULL, NULL);
    mal_apply_factors(dev->be, 4, 4, 0, NULL, NULL, false, NULL);
    mal_backend_upload(dev->be, NULL, NULL, 0);
    assert_true(mal_backend_sync(dev->be, &err));
}

static void layout(struct mal_arena *arena, void **mem) {
    mem[0] = mal_arena_alloc(arena, 1);
    mem[1] = mal_arena_floats(arena, 17);
    mem[2] = mal_arena_ints(arena, 16);
}

static void arena(void **state) {
    struct device *dev = *state;
    void *mem[3];
    struct mal_error err = {0};
    struct mal_arena counting, real;
    mal_arena_init_counting(&counting);
    layout(&counting, mem);
    assert_int_equal(counting.used, 64 + 128 + 64);
    assert_null(mem[2]);
    mal_arena_finish(&counting);

    assert_true(mal_arena_init(&real, dev->be, 256, &err));
    size_t mark = mal_arena_mark(&real);
    layout(&real, mem);
    assert_ptr_equal((char *)mem[0] + 64, mem[1]);
    assert_ptr_equal((char *)mem[1] + 128, mem[2]);
    assert_int_equal((uintptr_t)mem[0] % 64, 0);
    mal_arena_reset(&real, mark);
    assert_ptr_equal(mal_arena_alloc(&real, 256), mem[0]);
    assert_true(mal_arena_reserve(&real, 100, &err));
    assert_int_equal(real.used, 0);
    assert_true(mal_arena_reserve(&real, 5000, &err));
    assert_non_null(mal_arena_alloc(&real, 5000));
    assert_int_equal(real.peak, 5056);
    mal_alloc_fail_at(1);
    assert_false(mal_arena_reserve(&real, SIZE_MAX / 2, &err));
    mal_alloc_fail_at(0);
    assert_int_equal(err.status, MAL_NO_MEMORY);
    assert_non_null(mal_arena_alloc(&real, 5000));
    mal_arena_finish(&real);
    assert_int_equal(mal_backend_bytes(dev->be), 0);
}

/* ---- Transformer ---- */

static void embed_and_rows(void **state) {
    struct device *dev = *state;
    static const int64_t cases[][2] = {{1, 1}, {3, 7}, {50, 129}, {400, 96}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t][0], c = cases[t][1], v = 91, ld = c + 3;
        float *tokens = random_floats(dev, v * c), *positions = random_floats(dev, n * c);
        int32_t *ids = random_ints(dev, n, (int32_t)v),
                *pos = random_ints(dev, n, (int32_t)n);
        int32_t *dev_ids = device_ints(dev, ids, n), *dev_pos = device_ints(dev, pos, n);
        float *dev_tokens = device_floats(dev, tokens, v * c);
        float *y = device_floats(dev, NULL, n * c), *z = device_floats(dev, NULL, n * c);
        mal_embed(dev->be, n, c, dev_ids, dev_pos, dev_tokens, MAL_F32, 3,
                  device_floats(dev, positions, n * c), y);
        mal_embed(dev->be, n, c, dev_ids, NULL, dev_tokens, MAL_F32, 1, NULL, z);
        float *got = host_floats(dev, y, n * c), *plain = host_floats(dev, z, n * c);
        for (int64_t i = 0; i < n * c; i++) {
            float token = tokens[ids[i / c] * c + i % c];
            assert_true(plain[i] == token);
            assert_true(got[i] == 3 * token + positions[pos[i / c] * c + i % c]);
        }
        mal_add(dev->be, n * c, z, y);
        float *sum = host_floats(dev, y, n * c);
        for (int64_t i = 0; i < n * c; i++)
            assert_true(sum[i] == got[i] + plain[i]);

        /* Gathered, then as many as there are places scattered to one each. */
        int64_t m = n < v ? n : v;
        int32_t *places = malloc((size_t)m * sizeof *places);
        for (int64_t i = 0; i < m; i++)
            places[i] = (int32_t)((5 * i + 3) % v);
        float *gathered = device_floats(dev, NULL, n * ld);
        float *scattered = device_floats(dev, NULL, v * c);
        mal_backend_zero(dev->be, gathered, (size_t)(n * ld) * sizeof(float));
        mal_backend_zero(dev->be, scattered, (size_t)(v * c) * sizeof(float));
        mal_gather_rows(dev->be, n, c, dev_ids, dev_tokens, 0, gathered, ld);
        mal_scatter_rows(dev->be, m, c, device_ints(dev, places, m), gathered, ld,
                         scattered, c);
        float *rows = host_floats(dev, gathered, n * ld);
        float *there = host_floats(dev, scattered, v * c);
        for (int64_t i = 0; i < n * ld; i++)
            assert_true(rows[i] == (i % ld < c ? tokens[ids[i / ld] * c + i % ld] : 0));
        for (int64_t i = 0; i < m; i++)
            for (int64_t j = 0; j < c; j++) {
                float *at = &there[places[i] * c + j];
                assert_true(*at == rows[i * ld + j]);
                *at = 0;
            }
        for (int64_t i = 0; i < v * c; i++)
            assert_true(there[i] == 0);
        free(tokens);
        free(positions);
        free(ids);
        free(pos);
        free(got);
        free(plain);
        free(sum);
        free(rows);
        free(there);
        free(places);
        device_release(dev);
    }
}

/* A table in 16 bits: each row is widened. */
static void embed_of_16_bits(void **state) {
    struct device *dev = *state;
    static const int64_t cases[][2] = {{1, 1}, {3, 7}, {50, 129}, {400, 96}};
    for (size_t t = 0; t < 2 * sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t / 2][0], c = cases[t / 2][1], v = 91;
        enum mal_dtype dtype = t % 2 ? MAL_F16 : MAL_BF16;
        float *tokens = random_floats(dev, v * c), *positions = random_floats(dev, n * c);
        uint16_t *narrow = calloc((size_t)(v * c), sizeof *narrow);
        assert_non_null(narrow);
        mal_from_f32(narrow, tokens, dtype, (size_t)(v * c));
        mal_to_f32(tokens, narrow, dtype, (size_t)(v * c));
        int32_t *ids = random_ints(dev, n, (int32_t)v);
        int32_t *pos = random_ints(dev, n, (int32_t)n);
        float *y = device_floats(dev, NULL, n * c);
        mal_embed(dev->be, n, c, device_ints(dev, ids, n), device_ints(dev, pos, n),
                  device_buffer(dev, narrow, (size_t)(v * c) * sizeof *narrow), dtype, 1,
                  device_floats(dev, positions, n * c), y);
        float *got = host_floats(dev, y, n * c);
        for (int64_t i = 0; i < n * c; i++)
            assert_true(got[i] == tokens[ids[i / c] * c + i % c] +
                                      positions[pos[i / c] * c + i % c]);
        free(tokens);
        free(positions);
        free(narrow);
        free(ids);
        free(pos);
        free(got);
        device_release(dev);
    }
}

/* Without a list of rows, rows keep their places and only the stride changes. */
static void strided_copies(void **state) {
    struct device *dev = *state;
    static const int64_t cases[][4] = {{1, 1, 1, 4}, {3, 5, 9, 5}, {300, 130, 131, 390}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t][0], c = cases[t][1], ldx = cases[t][2], ldy = cases[t][3];
        float *x = random_floats(dev, n * ldx), *before = random_floats(dev, n * ldy);
        float *dev_x = device_floats(dev, x, n * ldx);
        float *y[] = {device_floats(dev, before, n * ldy),
                      device_floats(dev, before, n * ldy)};
        mal_gather_rows(dev->be, n, c, NULL, dev_x, ldx, y[0], ldy);
        mal_scatter_rows(dev->be, n, c, NULL, dev_x, ldx, y[1], ldy);
        for (int side = 0; side < 2; side++) {
            float *got = host_floats(dev, y[side], n * ldy);
            for (int64_t i = 0; i < n * ldy; i++)
                assert_true(got[i] ==
                            (i % ldy < c ? x[i / ldy * ldx + i % ldy] : before[i]));
            free(got);
        }
        free(x);
        free(before);
        device_release(dev);
    }
}

static void norm_fwd(void **state) {
    struct device *dev = *state;

    static const struct {
        int64_t n, c;
        bool rms, bias;
        double offset; /* of all x: a mean far from 0 must not cost digits */
        double size;   /* of all x, where eps counts; 0: 1 */
    } cases[] = {{1, 1, false, true, 0},        {3, 2, false, true, 0},
                 {2, 17, true, false, 0},       {5, 768, false, true, 0},
                 {40, 769, true, true, 1},      {7, 33, false, false, 100},
                 {1, 4096, false, true, -3},    {3, 512, true, false, 0, 1e-3},
                 {3, 512, false, true, 0, 1e-3}};

    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t].n, c = cases[t].c;
        float *x = random_floats(dev, n * c), *gain = random_floats(dev, c);
        float *bias = random_floats(dev, c);
        double *x64 = double_zeros(n * c), *want = double_zeros(n * c);
        for (int64_t i = 0; i < n * c; i++) {
            if (cases[t].size) x[i] *= (float)cases[t].size;
            x[i] += (float)cases[t].offset;
            x64[i] = (double)x[i];
        }
        struct mal_norm norm = {.n = n, .c = c, .rms = cases[t].rms, .eps = 1e-6f};
        ref_norm(&norm, gain, cases[t].bias ? bias : NULL, x64, want);
        norm.gain = device_floats(dev, gain, c);
        norm.bias = cases[t].bias ? device_floats(dev, bias, c) : NULL;
        float *y = device_floats(dev, NULL, n * c);
        mal_norm_fwd(dev->be, &norm, device_floats(dev, x, n * c), y, MAL_F32);
        float *got = host_floats(dev, y, n * c);
        check_floats("norm", n * c, got, want, 4e-7, 3e-7);
        free(got);
        free(x);
        free(gain);
        free(bias);
        free(x64);
        free(want);
        device_release(dev);
    }
}

/* ---- Cross-entropy ---- */

static void xent_fwd(void **state) {
    struct device *dev = *state;
    static const int64_t cases[][2] = {{1, 1},  {1, 2},    {5, 31},
                                       {4, 33}, {9, 1000}, {3, 50257}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t][0], v = cases[t][1];
        float *x = random_floats(dev, n * v);
        double *x64 = double_zeros(v);
        int32_t *label = random_ints(dev, n, (int32_t)v);
        for (int64_t i = 0; i < n * v; i++) /* ties happen */
            x[i] = t % 2 ? roundf(x[i] * 8) : x[i] * 20;
        label[n / 2] = n > 2 ? -1 : label[n / 2];
        float *logits = device_floats(dev, x, n * v),
              *logprob = device_floats(dev, NULL, n);
        int32_t *dev_label = device_ints(dev, label, n),
                *rank = device_ints(dev, NULL, n);
        int32_t *argmax = device_ints(dev, NULL, n), *alone = device_ints(dev, NULL, n);
        mal_xent_fwd(dev->be, n, v, logits, dev_label, logprob, rank, argmax);
        mal_xent_fwd(dev->be, n, v, logits, NULL, NULL, NULL, alone);
        size_t bytes = (size_t)n * sizeof(int32_t);
        float *got = host_floats(dev, logprob, n);
        int32_t *ranks = host_copy(dev, rank, bytes),
                *maxima = host_copy(dev, argmax, bytes);
        int32_t *maxima_alone = host_copy(dev, alone, bytes);
        assert_memory_equal(maxima, maxima_alone, bytes);
        for (int64_t i = 0; i < n; i++) {
            const float *row = x + i * v;
            int32_t best = 0, ahead = 0;
            for (int32_t j = 0; j < v; j++) {
                x64[j] = (double)row[j];
                if (row[j] > row[best]) best = j;
                if (label[i] >= 0)
                    ahead += row[j] > row[label[i]] ||
                             (row[j] == row[label[i]] && j < label[i]);
            }
            assert_int_equal(maxima[i], best);
            assert_int_equal(ranks[i], label[i] < 0 ? 0 : 1 + ahead);
            double want = label[i] < 0 ? 0 : ref_logprob(v, x64, label[i]);
            check_close("logprob", i, (double)got[i], want, 2e-7 + 2e-7 * fabs(want));
        }
        free(x);
        free(x64);
        free(label);
        free(got);
        free(ranks);
        free(maxima);
        free(maxima_alone);
        device_release(dev);
    }
}

/* A NaN anywhere in the row, not only at the label, spoils it, and no other row. */
static void xent_of_nan(void **state) {
    struct device *dev = *state;

    enum { V = 70, N = 5 };

    static const int at[N] = {0, 69, 33, 64, -1};
    float x[N * V];
    int32_t label[N] = {3, 3, 33, -1, 3};
    for (int i = 0; i < N * V; i++)
        x[i] = (float)(i % V == 40 ? 9 : i % 7);
    for (int i = 0; i < N; i++)
        if (at[i] >= 0) x[i * V + at[i]] = NAN;
    float *logprob = device_floats(dev, NULL, N), *logits = device_floats(dev, x, N * V);
    int32_t *rank = device_ints(dev, NULL, N), *argmax = device_ints(dev, NULL, N);
    mal_xent_fwd(dev->be, N, V, logits, device_ints(dev, label, N), logprob, rank,
                 argmax);
    float *got = host_floats(dev, logprob, N);
    int32_t *ranks = host_copy(dev, rank, sizeof label);
    int32_t *maxima = host_copy(dev, argmax, sizeof label);
    for (int i = 0; i < N - 1; i++) {
        assert_true(isnan(got[i]));
        assert_int_equal(ranks[i], 0);
        assert_int_equal(maxima[i], -1);
    }
    assert_true(isfinite(got[N - 1]));
    assert_int_equal(maxima[N - 1], 40);
    free(got);
    free(ranks);
    free(maxima);
    device_release(dev);
}

/* ---- Editors ---- */

struct editor_case {
    int64_t n, du, dg, pad;
};

static const struct editor_case editor_cases[] = {
    {1, 1, 1, 0}, {3, 5, 2, 1}, {37, 70, 33, 0}, {130, 100, 64, 5}, {4, 9, 0, 0},
};

static void normalize_rows_and_column_stats(void **state) {
    struct device *dev = *state;
    for (size_t t = 0; t < sizeof editor_cases / sizeof editor_cases[0]; t++) {
        struct editor_case e = editor_cases[t];
        int64_t c = e.du + e.dg, ldu = e.du + e.pad, ldg = e.dg + e.pad;
        float *u = random_floats(dev, e.n * ldu), *g = random_floats(dev, e.n * ldg);
        float *mean = random_floats(dev, c), *std = random_floats(dev, c);
        for (int64_t j = 0; j < c; j++)
            std[j] = j == 0 ? 0 : fabsf(std[j]);
        float *dev_u = device_floats(dev, u, e.n * ldu),
              *dev_g = device_floats(dev, g, e.n * ldg);
        float *h = device_floats(dev, NULL, e.n * c);
        double *dev_mean = device_doubles(dev, NULL, c),
               *dev_m2 = device_doubles(dev, NULL, c);
        int64_t arg_u = e.pad ? ldu : 0, arg_g = e.pad ? ldg : 0;
        mal_normalize_rows(dev->be, e.n, e.du, e.dg, dev_u, arg_u, dev_g, arg_g,
                           device_floats(dev, mean, c), device_floats(dev, std, c), h);
        mal_column_stats(dev->be, e.n, e.du, e.dg, dev_u, arg_u, dev_g, arg_g, dev_mean,
                         dev_m2);
        float *got = host_floats(dev, h, e.n * c);
        double *means = host_copy(dev, dev_mean, (size_t)c * sizeof *means);
        double *m2 = host_copy(dev, dev_m2, (size_t)c * sizeof *m2);
        for (int64_t j = 0; j < c; j++) {
            double sum = 0, squares = 0;
            for (int64_t i = 0; i < e.n; i++) {
                double x = (double)(j < e.du ? u[i * ldu + j] : g[i * ldg + j - e.du]);
                double want =
                    (x - (double)mean[j]) / ((double)std[j] + (double)FLT_EPSILON);
                check_close("normalized", i * c + j, (double)got[i * c + j], want,
                            3e-7 * (1 + fabs((double)mean[j])) /
                                ((double)std[j] + (double)FLT_EPSILON));
                sum += x;
            }
            for (int64_t i = 0; i < e.n; i++) {
                double x = (double)(j < e.du ? u[i * ldu + j] : g[i * ldg + j - e.du]);
                squares += (x - sum / (double)e.n) * (x - sum / (double)e.n);
            }
            check_close("mean", j, means[j], sum / (double)e.n, 1e-15 * (double)e.n);
            check_close("m2", j, m2[j], squares, 1e-14 * (double)e.n);
        }
        free(u);
        free(g);
        free(mean);
        free(std);
        free(got);
        free(means);
        free(m2);
        device_release(dev);
    }
}

static void block_fwd_and_edit_diffs(void **state) {
    struct device *dev = *state;
    for (size_t t = 0; t < sizeof editor_cases / sizeof editor_cases[0]; t++) {
        struct editor_case e = editor_cases[t];
        int64_t n = e.n, c = e.du, ld = c + e.pad, dc = e.dg + 1;
        float *z = random_floats(dev, n * c), *h = random_floats(dev, n * c);
        float *scale = random_floats(dev, c), *shift = random_floats(dev, c);
        z[0] = 0;
        double *want = double_zeros(n * c), *want_d = double_zeros(n * dc);
        for (int64_t i = 0; i < n * c; i++)
            want[i] = (double)h[i] + (double)shift[i % c] +
                      (double)scale[i % c] * (z[i] > 0 ? (double)z[i] : 0);
        float *dev_h = device_floats(dev, h, n * c);
        mal_block_fwd(dev->be, n, c, device_floats(dev, z, n * c),
                      device_floats(dev, scale, c), device_floats(dev, shift, c), dev_h);
        float *got = host_floats(dev, dev_h, n * c);
        check_floats("block", n * c, got, want, 2e-6, 0);

        float *a = random_floats(dev, n * ld), *b = random_floats(dev, n * c);
        float *v = random_floats(dev, n * dc), *d = device_floats(dev, NULL, n * dc);
        for (int64_t i = 0; i < n; i++) {
            double product = 0;
            for (int64_t j = 0; j < c; j++)
                product += (double)a[i * ld + j] * (double)b[i * c + j];
            for (int64_t j = 0; j < dc; j++)
                want_d[i * dc + j] = -(double)0.25f * product * (double)v[i * dc + j];
        }
        mal_edit_diffs(dev->be, n, c, dc, 0.25f, device_floats(dev, a, n * ld),
                       e.pad ? ld : 0, device_floats(dev, b, n * c), 0,
                       device_floats(dev, v, n * dc), dc, d, 0);
        float *got_d = host_floats(dev, d, n * dc);
        check_floats("diffs", n * dc, got_d, want_d, 0, 2e-7);
        free(z);
        free(h);
        free(scale);
        free(shift);
        free(want);
        free(want_d);
        free(got);
        free(got_d);
        free(a);
        free(b);
        free(v);
        device_release(dev);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(devices_by_name),
        cmocka_unit_test(creation_without_memory),
        cmocka_unit_test(memory),
        cmocka_unit_test(copies),
        cmocka_unit_test(a_device_error_sticks),
        cmocka_unit_test(nothing_to_do),
        cmocka_unit_test(arena),
        cmocka_unit_test(embed_and_rows),
        cmocka_unit_test(embed_of_16_bits),
        cmocka_unit_test(strided_copies),
        cmocka_unit_test(norm_fwd),
        cmocka_unit_test(xent_fwd),
        cmocka_unit_test(xent_of_nan),
        cmocka_unit_test(normalize_rows_and_column_stats),
        cmocka_unit_test(block_fwd_and_edit_diffs),
    };
    return cmocka_run_group_tests_name("backend", tests, device_open, device_close);
}
