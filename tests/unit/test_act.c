/* test_act.c - activations, gates and their slopes against plain loops in double. */
#include "device.h"

#include "reference.h"

static void act_fwd(void **state) {
    struct device *dev = *state;
    static const int64_t lengths[] = {1, 15, 33, 40003};
    for (enum mal_act act = MAL_GELU_TANH; act <= MAL_TANH; act++) {
        for (size_t t = 0; t < sizeof lengths / sizeof lengths[0]; t++) {
            int64_t n = lengths[t];
            float *x = malloc((size_t)n * sizeof *x);
            assert_non_null(x);
            for (int64_t i = 0; i < n; i++)
                x[i] = n == 1 ? 0 : (float)(24 * (double)i / (double)n - 12);
            float *dev_x = device_floats(dev, x, n), *y = device_floats(dev, NULL, n);
            mal_act_fwd(dev->be, act, 1, n, dev_x, NULL, y, MAL_F32);
            mal_act_fwd(dev->be, act, 1, n, dev_x, NULL, dev_x, MAL_F32);
            float *got = host_floats(dev, y, n), *same = host_floats(dev, dev_x, n);
            assert_memory_equal(got, same, (size_t)n * sizeof *got);
            for (int64_t i = 0; i < n; i++) {
                /* The exponent's rounding is worth |x^2| or |x^3| ulp in the tail. */
                double want = ref_act(act, (double)x[i]), v = fabs((double)x[i]);
                check_close("act", i, (double)got[i], want,
                            1e-7 * (4 + v + v * v + 0.1 * v * v * v) * fabs(want) +
                                1e-15);
                if (x[i] > 4) check_close("act", i, (double)got[i], want, 3e-7 * want);
            }
            free(x);
            free(got);
            free(same);
            device_release(dev);
        }
    }
}

static void act_of_nan_and_far_values(void **state) {
    struct device *dev = *state;
    const float x[] = {NAN, 1e4f, -1e4f, 100, -100, 1e30f, -1e30f, INFINITY};
    for (enum mal_act act = MAL_GELU_TANH; act <= MAL_SILU; act++) {
        float *y = device_floats(dev, NULL, 8), *dev_x = device_floats(dev, x, 8);
        const float ones[] = {1, 1, 1, 1, 1, 1, 1, 1};
        float *dx = device_floats(dev, ones, 8);
        mal_act_fwd(dev->be, act, 1, 8, dev_x, NULL, y, MAL_F32);
        mal_act_bwd(dev->be, act, 6, dev_x, dx, dx);
        float *got = host_floats(dev, y, 8), *slope = host_floats(dev, dx, 8);
        assert_true(isnan(got[0]));
        for (int i = 1; i < 8; i += 2)
            assert_true(got[i] == x[i]);
        for (int i = 2; i < 5; i += 2)
            assert_true(fabsf(got[i]) < 1e-33f);
        assert_true(slope[1] == 1 && slope[3] == 1);
        assert_true(fabsf(slope[2]) < 1e-30f && fabsf(slope[4]) < 1e-30f);
        free(got);
        free(slope);
        device_release(dev);
    }
}

static void act_bwd(void **state) {
    struct device *dev = *state;
    int64_t n = 20011;
    float *x = malloc((size_t)n * sizeof *x), *dy = random_floats(dev, n);
    assert_non_null(x);
    for (int64_t i = 0; i < n; i++)
        x[i] = (float)(20 * ((double)i + 0.25) / (double)n - 10);
    for (enum mal_act act = MAL_GELU_TANH; act <= MAL_TANH; act++) {
        float *dev_x = device_floats(dev, x, n), *dev_dy = device_floats(dev, dy, n);
        float *dx = device_floats(dev, NULL, n);
        mal_act_bwd(dev->be, act, n, dev_x, dev_dy, dx);
        mal_act_bwd(dev->be, act, n, dev_x, dev_dy, dev_dy);
        float *got = host_floats(dev, dx, n), *same = host_floats(dev, dev_dy, n);
        assert_memory_equal(got, same, (size_t)n * sizeof *got);
        for (int64_t i = 0; i < n; i++) {
            double h = 1e-5, at = (double)x[i];
            double slope = (ref_act(act, at + h) - ref_act(act, at - h)) / (2 * h);
            check_close("slope", i, (double)got[i], slope * (double)dy[i], 3e-6);
        }
        free(got);
        free(same);
        device_release(dev);
    }
    free(x);
    free(dy);
}

/* Where 1 - 2 / (exp(2x) + 1) cancels, and where it is 1. */
static void tanh_everywhere(void **state) {
    struct device *dev = *state;

    enum { N = 5000, FAR = 6 };

    float *x = random_floats(dev, N);
    const float far[FAR] = {1e-30f, -1e-38f, 0.0f, 90.0f, -1e30f, NAN};
    memcpy(x, far, sizeof far);
    for (int64_t i = FAR; i < N; i++) /* from 1e-6 to 1e2 */
        x[i] *= (float)pow(10.0, 8 * (double)i / N - 6);
    float *y = device_floats(dev, NULL, N), *dx = device_floats(dev, NULL, N);
    float *ones = random_floats(dev, N), *dev_x = device_floats(dev, x, N);
    for (int64_t i = 0; i < N; i++)
        ones[i] = 1;
    mal_act_fwd(dev->be, MAL_TANH, 1, N, dev_x, NULL, y, MAL_F32);
    mal_act_bwd(dev->be, MAL_TANH, N, dev_x, device_floats(dev, ones, N), dx);
    float *got = host_floats(dev, y, N), *slope = host_floats(dev, dx, N);
    for (int64_t i = 0; i < N; i++) {
        double at = (double)x[i], c = cosh(at), want = isnan(at) ? NAN : 1 / (c * c);
        check_close("tanh", i, (double)got[i], tanh(at), 2e-7 * fabs(tanh(at)));
        if (!isnan(at)) /* the exponent's rounding is worth |x| ulp */
            check_close("slope", i, (double)slope[i], want,
                        (4e-7 + 1e-7 * fabs(at)) * want + 1e-37);
    }
    free(x);
    free(ones);
    free(got);
    free(slope);
    device_release(dev);
}

/* ---- Gates ---- */

/* Over values from far below a cap to far above it. */
static void caps(void **state) {
    struct device *dev = *state;

    enum { N = 5003 };

    static const float all[] = {1.5F, 30, 50};
    for (size_t t = 0; t < sizeof all / sizeof *all; t++) {
        float *x = random_floats(dev, N), *dy = random_floats(dev, N);
        double cap = (double)all[t], h = 1e-4;
        for (int64_t i = 0; i < N; i++) /* from 1e-5 to 1e3 */
            x[i] *= (float)pow(10.0, 8 * (double)i / N - 5);
        float *y = device_floats(dev, x, N), *dx = device_floats(dev, dy, N);
        mal_cap_fwd(dev->be, N, all[t], y);
        mal_cap_bwd(dev->be, N, all[t], y, dx);
        float *got = host_floats(dev, y, N), *slope = host_floats(dev, dx, N);
        for (int64_t i = 0; i < N; i++) {
            double at = (double)x[i], want = cap * tanh(at / cap);
            double rise = cap * tanh((at + h) / cap) - cap * tanh((at - h) / cap);
            check_close("cap", i, (double)got[i], want, 4e-7 * fabs(want));
            check_close("slope", i, (double)slope[i], rise / (2 * h) * (double)dy[i],
                        1e-6);
        }
        free(x), free(dy), free(got), free(slope);
        device_release(dev);
    }
}

/* y over x and over the gate too. */
static void glu_fwd(void **state) {
    struct device *dev = *state;
    static const int64_t lengths[] = {1, 17, 1025, 40003};
    for (enum mal_act act = MAL_GELU_TANH; act <= MAL_TANH; act++) {
        for (size_t t = 0; t < sizeof lengths / sizeof lengths[0]; t++) {
            int64_t n = lengths[t];
            float *gate = random_floats(dev, n), *x = random_floats(dev, n);
            for (int64_t i = 0; i < n; i++)
                gate[i] *= 3;
            float *over_gate = device_floats(dev, gate, n), *y = device_floats(dev, x, n);
            float *over_x = device_floats(dev, x, n);
            mal_glu_fwd(dev->be, act, n, over_gate, over_x, y, MAL_F32);
            mal_glu_fwd(dev->be, act, n, over_gate, over_x, over_x, MAL_F32);
            mal_glu_fwd(dev->be, act, n, over_gate, device_floats(dev, x, n), over_gate,
                        MAL_F32);
            float *got = host_floats(dev, y, n), *same = host_floats(dev, over_x, n);
            float *too = host_floats(dev, over_gate, n);
            assert_memory_equal(got, same, (size_t)n * sizeof *got);
            assert_memory_equal(got, too, (size_t)n * sizeof *got);
            for (int64_t i = 0; i < n; i++) {
                double want = ref_act(act, (double)gate[i]) * (double)x[i];
                check_close("gate", i, (double)got[i], want, 3e-6 * fabs(want) + 1e-12);
            }
            free(gate);
            free(x);
            free(got);
            free(same);
            free(too);
            device_release(dev);
        }
    }
}

static void check_glu_bwd(struct device *dev, enum mal_act act, int64_t n) {
    float *gate = random_floats(dev, n), *x = random_floats(dev, n);
    float *dy = random_floats(dev, n);
    for (int64_t i = 0; i < n; i++)
        gate[i] = gate[i] * 3 + 1e-3f; /* not where relu bends */
    float *dgate = device_floats(dev, NULL, n), *dx = device_floats(dev, NULL, n);
    float *dev_gate = device_floats(dev, gate, n), *dev_x = device_floats(dev, x, n);
    float *over = device_floats(dev, dy, n);
    mal_glu_bwd(dev->be, act, n, dev_gate, dev_x, over, dgate, dx);
    float *got = host_floats(dev, dgate, n), *got_x = host_floats(dev, dx, n);
    mal_glu_bwd(dev->be, act, n, dev_gate, dev_x, over, dgate, over);
    float *again = host_floats(dev, dgate, n), *again_x = host_floats(dev, over, n);
    assert_memory_equal(got, again, (size_t)n * sizeof *got);
    assert_memory_equal(got_x, again_x, (size_t)n * sizeof *got);
    for (int64_t i = 0; i < n; i++) {
        double h = 1e-5, at = (double)gate[i], d = (double)dy[i];
        double slope = (ref_act(act, at + h) - ref_act(act, at - h)) / (2 * h);
        check_close("dgate", i, (double)got[i], slope * (double)x[i] * d, 6e-6);
        check_close("dx", i, (double)got_x[i], ref_act(act, at) * d, 3e-6);
    }
    free(gate);
    free(x);
    free(dy);
    free(got);
    free(got_x);
    free(again);
    free(again_x);
    device_release(dev);
}

static void glu_bwd(void **state) {
    static const int64_t lengths[] = {1, 33, 1024, 20011};
    for (enum mal_act act = MAL_GELU_TANH; act <= MAL_TANH; act++)
        for (size_t t = 0; t < sizeof lengths / sizeof lengths[0]; t++)
            check_glu_bwd(*state, act, lengths[t]);
}

/* With slope 0 at 0 an untrained hyper-network would never learn (core/README.md section
 * 3).
 */
static void relu_has_slope_1_at_0(void **state) {
    struct device *dev = *state;
    const float x[] = {0.0f, -0.0f, -1e-30f, 1e-30f}, dy[] = {3, 4, 5, 6};
    float *dx = device_floats(dev, dy, 4);
    mal_act_bwd(dev->be, MAL_RELU, 4, device_floats(dev, x, 4), dx, dx);
    float *got = host_floats(dev, dx, 4);
    assert_true(got[0] == 3 && got[1] == 4 && got[2] == 0 && got[3] == 6);
    free(got);
    device_release(dev);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(act_fwd), cmocka_unit_test(act_of_nan_and_far_values),
        cmocka_unit_test(act_bwd), cmocka_unit_test(tanh_everywhere),
        cmocka_unit_test(caps),    cmocka_unit_test(glu_fwd),
        cmocka_unit_test(glu_bwd), cmocka_unit_test(relu_has_slope_1_at_0),
    };
    return cmocka_run_group_tests_name("act", tests, device_open, device_close);
}
