/* test_gradcheck.c - backward of norms and cross-entropy against central differences of a
 * forward pass written independently in double precision (reference.h). */
#include "device.h"

#include "reference.h"

/* ---- Norms ---- */

static void norm_bwd(void **state) {
    struct device *dev = *state;

    static const struct {
        int64_t n, c;
        bool rms, bias;
    } cases[] = {{1, 1, false, true},  {2, 2, false, true},  {3, 7, true, false},
                 {2, 33, false, true}, {3, 48, true, false}, {2, 100, false, false}};

    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t].n, c = cases[t].c;
        float *x = random_floats(dev, n * c), *dy = random_floats(dev, n * c);
        float *gain = random_floats(dev, c), *bias = random_floats(dev, c);
        float *before = random_floats(dev, n * c);
        double *x64 = wide(x, n * c), *y = double_zeros(n * c),
               *want = double_zeros(n * c);
        struct mal_norm norm = {.n = n, .c = c, .rms = cases[t].rms, .eps = 1e-5f};
        for (int64_t i = 0; i < n * c; i++) {
            double h = 1e-5, loss[2];
            for (int side = 0; side < 2; side++) {
                x64[i] = (double)x[i] + (side ? h : -h);
                ref_norm(&norm, gain, cases[t].bias ? bias : NULL, x64, y);
                loss[side] = 0;
                for (int64_t j = 0; j < n * c; j++)
                    loss[side] += y[j] * (double)dy[j];
            }
            x64[i] = (double)x[i];
            want[i] = (double)before[i] + (loss[1] - loss[0]) / (2 * h);
        }
        norm.gain = device_floats(dev, gain, c);
        norm.bias = cases[t].bias ? device_floats(dev, bias, c) : NULL;
        float *dx = device_floats(dev, before, n * c);
        mal_norm_bwd(dev->be, &norm, device_floats(dev, x, n * c),
                     device_floats(dev, dy, n * c), dx);
        float *got = host_floats(dev, dx, n * c);
        check_floats("norm gradient", n * c, got, want, 3e-6, 1e-5);
        free(x);
        free(dy);
        free(gain);
        free(bias);
        free(before);
        free(x64);
        free(y);
        free(want);
        free(got);
        device_release(dev);
    }
}

/* ---- Cross-entropy ---- */

static void xent_bwd(void **state) {
    struct device *dev = *state;
    static const int64_t cases[][2] = {{1, 1}, {1, 2}, {5, 31}, {4, 200}, {2, 3001}};
    for (size_t t = 0; t < sizeof cases / sizeof cases[0]; t++) {
        int64_t n = cases[t][0], v = cases[t][1];
        float *x = random_floats(dev, n * v), *scale = random_floats(dev, n);
        int32_t *label = random_ints(dev, n, (int32_t)v);
        if (n > 1) label[1] = -1;
        for (int64_t i = 0; i < n * v; i++)
            x[i] *= 3;
        float *dx = device_floats(dev, x, n * v);
        mal_xent_bwd(dev->be, n, v, dx, device_ints(dev, label, n),
                     device_floats(dev, scale, n));
        float *got = host_floats(dev, dx, n * v);
        int64_t step = v > 1000 ? 37 : 1;
        for (int64_t i = 0; i < n; i++) {
            double *row = wide(x + i * v, v);
            for (int64_t j = 0; j < v; j += step) {
                double h = 1e-5, kept = row[j], want = 0;
                if (label[i] >= 0) {
                    row[j] = kept + h;
                    want = -ref_logprob(v, row, label[i]);
                    row[j] = kept - h;
                    want += ref_logprob(v, row, label[i]);
                    row[j] = kept;
                }
                want *= (double)scale[i] / (2 * h);
                check_close("xent gradient", i * v + j, (double)got[i * v + j], want,
                            1e-6);
            }
            free(row);
        }
        free(x);
        free(scale);
        free(label);
        free(got);
        device_release(dev);
    }
}

/* p - 1 of a label that is almost certain does not cancel. */
static void xent_bwd_near_certainty(void **state) {
    struct device *dev = *state;
    const float x[] = {0, 25, 0}, one = 1;
    const int32_t label = 1;
    float *dx = device_floats(dev, x, 3);
    mal_xent_bwd(dev->be, 1, 3, dx, device_ints(dev, &label, 1),
                 device_floats(dev, &one, 1));
    float *got = host_floats(dev, dx, 3);
    double p = exp(-25.0) / (1 + 2 * exp(-25.0));
    check_close("others", 0, (double)got[0], p, 1e-6 * p);
    check_close("label", 1, (double)got[1], -2 * p, 2e-5 * p);
    free(got);
    device_release(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm_bwd),
        cmocka_unit_test(xent_bwd),
        cmocka_unit_test(xent_bwd_near_certainty),
    };
    return cmocka_run_group_tests_name("gradcheck", tests, device_open, device_close);
}
