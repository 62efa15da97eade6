/* test_head_norm.c - norms of heads on a device: forward against double precision,
 * backward against central differences of that. */
#include "device.h"

#include "reference.h"

struct head_case {
    int64_t n, heads, size, pad; /* pad: what a row has behind its heads */
    float scale;                 /* of all x, where eps counts */
};

static const struct head_case cases[] = {
    {1, 1, 1, 0, 1},    {3, 2, 6, 0, 1},       {5, 3, 33, 7, 1},  {2, 8, 128, 256, 1},
    {70, 5, 64, 64, 1}, {4, 2, 130, 2, 1e-3F}, {1, 7, 256, 0, 1}, {3, 1, 5120, 1024, 1}};

enum { N_CASES = sizeof cases / sizeof *cases };

static int64_t stride(const struct head_case *c) {
    return c->heads * c->size + c->pad;
}

static struct mal_head_norm norm_of(const struct head_case *c) {
    return (struct mal_head_norm){
        .n = c->n, .n_heads = c->heads, .head_size = c->size, .eps = 1e-6F};
}

/* y (n, stride) of x: heads normed, what is behind them as it is. */
static void norm_heads(const struct head_case *c, const float *gain, const double *x,
                       double *y) {
    struct mal_norm head = {.n = 1, .c = c->size, .rms = true, .eps = 1e-6F};
    memcpy(y, x, (size_t)(c->n * stride(c)) * sizeof *y);
    for (int64_t i = 0; i < c->n; i++) {
        for (int64_t h = 0; h < c->heads; h++) {
            int64_t at = i * stride(c) + h * c->size;
            ref_norm(&head, gain, NULL, x + at, y + at);
        }
    }
}

static void fwd(void **state) {
    struct device *dev = *state;
    for (size_t t = 0; t < N_CASES; t++) {
        const struct head_case *c = &cases[t];
        int64_t n = c->n * stride(c);
        float *x = random_floats(dev, n), *gain = random_floats(dev, c->size);
        for (int64_t i = 0; i < n; i++)
            x[i] *= c->scale;
        double *x64 = wide(x, n), *want = double_zeros(n);
        norm_heads(c, gain, x64, want);
        struct mal_head_norm norm = norm_of(c);
        norm.gain = device_floats(dev, gain, c->size);
        float *y = device_floats(dev, x, n);
        mal_head_norm_fwd(dev->be, &norm, y, stride(c));
        float *got = host_floats(dev, y, n);
        check_floats("norm of heads", n, got, want, 4e-7, 3e-7);
        free(x), free(gain), free(x64), free(want), free(got);
        device_release(dev);
    }
}

static double loss(const struct head_case *c, const float *gain, const double *x,
                   const float *dy, double *y) {
    double sum = 0;
    norm_heads(c, gain, x, y);
    for (int64_t i = 0; i < c->n * stride(c); i++)
        sum += i % stride(c) < c->heads * c->size ? y[i] * (double)dy[i] : 0;
    return sum;
}

static void bwd(void **state) {
    struct device *dev = *state;
    for (size_t t = 0; t < N_CASES; t++) {
        const struct head_case *c = &cases[t];
        int64_t n = c->n * stride(c);
        if (n > 3000) continue; /* differences cost its square */
        float *x = random_floats(dev, n), *dy = random_floats(dev, n);
        float *gain = random_floats(dev, c->size);
        double *x64 = wide(x, n), *y = double_zeros(n), *want = double_zeros(n);
        for (int64_t i = 0; i < n; i++) {
            double h = 1e-5, sides[2];
            want[i] = (double)dy[i]; /* behind the heads nothing is written */
            if (i % stride(c) >= c->heads * c->size) continue;
            for (int side = 0; side < 2; side++) {
                x64[i] = (double)x[i] + (side ? h : -h);
                sides[side] = loss(c, gain, x64, dy, y);
            }
            x64[i] = (double)x[i];
            want[i] = (sides[1] - sides[0]) / (2 * h);
        }
        struct mal_head_norm norm = norm_of(c);
        norm.gain = device_floats(dev, gain, c->size);
        float *dx = device_floats(dev, dy, n);
        mal_head_norm_bwd(dev->be, &norm, device_floats(dev, x, n), stride(c), dx,
                          stride(c));
        float *got = host_floats(dev, dx, n);
        check_floats("gradient of a norm of heads", n, got, want, 3e-6, 1e-5);
        free(x), free(dy), free(gain), free(x64), free(y), free(want), free(got);
        device_release(dev);
    }
}

static void nothing(void **state) {
    struct device *dev = *state;
    mal_head_norm_fwd(dev->be, &(struct mal_head_norm){.head_size = 4, .n_heads = 2},
                      NULL, 0);
    mal_head_norm_bwd(dev->be, &(struct mal_head_norm){.head_size = 4, .n = 2}, NULL, 0,
                      NULL, 0);
    struct mal_error err = {0};
    assert_true(mal_backend_sync(dev->be, &err));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fwd),
        cmocka_unit_test(bwd),
        cmocka_unit_test(nothing),
    };
    return cmocka_run_group_tests_name("head_norm", tests, device_open, device_close);
}
