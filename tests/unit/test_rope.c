/* test_rope.c - rotary positions against plain loops in double. */
#include "device.h"

/* ---- Angles ---- */

static void check_angles(struct device *dev, int64_t n, int64_t half, const int32_t *pos,
                         const float *inv_freq, float scale) {
    float *cs = device_floats(dev, NULL, n * 2 * half);
    mal_rope_angles(dev->be, n, half, device_ints(dev, pos, n),
                    device_floats(dev, inv_freq, half), scale, cs);
    float *got = host_floats(dev, cs, n * 2 * half);
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < half; j++) {
            float angle = (float)pos[i] * inv_freq[j];
            const float *row = got + i * 2 * half;
            double c = cos((double)angle) * (double)scale;
            double s = sin((double)angle) * (double)scale;
            double rounded = scale < 1 || scale > 1 ? 1.2e-7 : 6e-8; /* twice, or once */
            check_close("cos", i * half + j, (double)row[j], c,
                        rounded * fabs(c) + 1e-10);
            check_close("sin", i * half + j, (double)row[half + j], s,
                        rounded * fabs(s) + 1e-10);
        }
    }
    free(got);
    device_release(dev);
}

/* The frequencies of rotary models, and positions up to a million. */
static void angles(void **state) {
    struct device *dev = *state;
    static const int64_t cases[][2] = {{1, 1}, {3, 5}, {200, 32}, {65, 64}, {2, 17}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t][0], half = cases[t][1];
        int32_t *pos = random_ints(dev, n, t % 2 ? 1000000 : 2048);
        float *inv_freq = random_floats(dev, half);
        for (int64_t j = 0; j < half; j++)
            inv_freq[j] = (float)pow(10000.0, -(double)j / (double)half);
        pos[0] = t == 0 ? 0 : 1000000;
        check_angles(dev, n, half, pos, inv_freq, t == 2 ? 1.19F : 1);
        free(pos);
        free(inv_freq);
    }
}

/* Close to multiples of pi / 2, where a sine or cosine is small, and negative angles. */
static void angles_near_zeros(void **state) {
    enum { N = 4, HALF = 300 };

    static const int32_t pos[N] = {1, -1, 3, 600};
    float inv_freq[HALF];
    for (int j = 0; j < HALF; j++)
        inv_freq[j] = (float)(j * 1.57079632679489661923);
    check_angles(*state, N, HALF, pos, inv_freq, 1);
}

/* ---- Turning ---- */

static const struct rope_case {
    int64_t n, heads, head_size, half, pad;
    bool interleaved;
} rope_cases[] = {
    {1, 1, 2, 1, 0, false},   {1, 1, 2, 1, 0, true},    {3, 2, 10, 5, 0, false},
    {3, 2, 11, 3, 2, true},   {40, 4, 64, 32, 0, true}, {40, 4, 64, 32, 5, false},
    {70, 3, 80, 16, 1, true}, {7, 2, 96, 33, 0, false},
};

static void turn(const struct rope_case *c, const float *cs, bool inverse, double *x) {
    int64_t ldx = c->heads * c->head_size + c->pad;
    for (int64_t i = 0; i < c->n; i++) {
        for (int64_t h = 0; h < c->heads; h++) {
            for (int64_t j = 0; j < c->half; j++) {
                double *head = x + i * ldx + h * c->head_size;
                double *a = head + (c->interleaved ? 2 * j : j);
                double *b = c->interleaved ? a + 1 : a + c->half;
                double re = (double)cs[i * 2 * c->half + j], kept = *a;
                double im = (double)cs[i * 2 * c->half + c->half + j];
                if (inverse) im = -im;
                *a = kept * re - *b * im;
                *b = *b * re + kept * im;
            }
        }
    }
}

/* Both ways; the inverse is the gradient: <turned x, y> = <x, turned back y>. */
static void rope(void **state) {
    struct device *dev = *state;
    for (size_t t = 0; t < sizeof rope_cases / sizeof rope_cases[0]; t++) {
        const struct rope_case *c = &rope_cases[t];
        int64_t ldx = c->heads * c->head_size + c->pad, size = c->n * ldx;
        float *x = random_floats(dev, size), *cs = random_floats(dev, c->n * 2 * c->half);
        struct mal_rope rope = {.n = c->n,
                                .n_heads = c->heads,
                                .head_size = c->head_size,
                                .half = c->half,
                                .interleaved = c->interleaved,
                                .cs = device_floats(dev, cs, c->n * 2 * c->half)};
        for (int inverse = 0; inverse < 2; inverse++) {
            float *y = device_floats(dev, x, size);
            double *want = wide(x, size);
            rope.inverse = inverse;
            mal_rope(dev->be, &rope, y, c->pad ? ldx : 0);
            turn(c, cs, inverse, want);
            float *got = host_floats(dev, y, size);
            check_floats("rope", size, got, want, 1e-6, 0);
            for (int64_t i = 0; i < size; i++) { /* the rest of a head and of a row */
                int64_t channel = i % ldx;
                if (channel >= c->heads * c->head_size ||
                    channel % c->head_size >= 2 * c->half)
                    assert_true(got[i] == x[i]);
            }
            free(got);
            free(want);
        }
        free(x);
        free(cs);
        device_release(dev);
    }
}

static void nothing_to_turn(void **state) {
    struct device *dev = *state;
    mal_rope(dev->be, &(struct mal_rope){.n = 3, .n_heads = 2, .head_size = 4}, NULL, 0);
    mal_rope(dev->be, &(struct mal_rope){.n_heads = 2, .head_size = 4, .half = 2}, NULL,
             0);
    mal_rope_angles(dev->be, 0, 4, NULL, NULL, 1, NULL);
    struct mal_error err = {0};
    assert_true(mal_backend_sync(dev->be, &err));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(angles),
        cmocka_unit_test(angles_near_zeros),
        cmocka_unit_test(rope),
        cmocka_unit_test(nothing_to_turn),
    };
    return cmocka_run_group_tests_name("rope", tests, device_open, device_close);
}
