/* act.cu - activation functions and their slopes, element by element; the forms are those
 * of core/cpu/act.c.
 *
 * 0.5 (1 + tanh(u)) is the logistic function of 2u: one exp, and exact far out where 1 +
 * tanh cancels. Each thread reads what it overwrites, so x and y, dy and dx may be the
 * same memory. */
#include <math.h>

#include "cuda/impl.h"
#include "cuda/number.h"

#define TWO_SQRT_2_PI 1.59576912160573f /* 2 sqrt(2 / pi) */
#define CUBIC         0.044715f
#define SQRT_HALF     0.70710678118655f
#define INV_SQRT_2PI  0.39894228040143f

/* The logistic function of w, and its slope; by exp(-|w|), which neither overflows nor
 * cancels. */
__device__ static float logistic(float w, float *slope) {
    float e = expf(w < 0 ? w : -w);
    float q = 1.0f / (1.0f + e);
    *slope = e * q * q;
    return w < 0 ? e * q : q;
}

/* Each activation: its value at x, and the gradient at x for dy at the value. */

struct gelu_tanh {
    __device__ static float value(float x) {
        float slope;
        return x * logistic(TWO_SQRT_2_PI * (x + CUBIC * x * x * x), &slope);
    }

    __device__ static float gradient(float x, float dy) {
        float slope, s = logistic(TWO_SQRT_2_PI * (x + CUBIC * x * x * x), &slope);
        float dw = TWO_SQRT_2_PI * (1.0f + 3.0f * CUBIC * x * x);
        return dy * (s + x * slope * dw);
    }
};

struct gelu_erf {
    /* The normal distribution function; 1 + erf would cancel. */
    __device__ static float normal_cdf(float x) {
        return 0.5f * erfcf(-x * SQRT_HALF);
    }

    __device__ static float value(float x) {
        return x * normal_cdf(x);
    }

    __device__ static float gradient(float x, float dy) {
        return dy * (normal_cdf(x) + x * expf(-0.5f * x * x) * INV_SQRT_2PI);
    }
};

struct relu {
    __device__ static float value(float x) {
        return x < 0 ? 0 : x; /* a NaN stays */
    }

    __device__ static float gradient(float x, float dy) {
        return x < 0 ? 0 : dy; /* slope 1 at 0 */
    }
};

struct silu {
    __device__ static float value(float x) {
        float slope;
        return x * logistic(x, &slope);
    }

    __device__ static float gradient(float x, float dy) {
        float slope, s = logistic(x, &slope);
        return dy * (s + x * slope);
    }
};

struct hyperbolic {
    /* Cephes' polynomial around 0, where 1 - 2 / (exp(2x) + 1) cancels. tanhf() may be
     * off by 2 ulp. */
    __device__ static float value(float x) {
        float z = x * x, a = fabsf(x);
        float p = -5.70498872745e-3f;
        p = p * z + 2.06390887954e-2f;
        p = p * z - 5.37397155531e-2f;
        p = p * z + 1.33314422036e-1f;
        p = p * z - 3.33332819422e-1f;
        float near = p * z * x + x;
        float e = expf(-2.0f * a), far = (1.0f - e) / (1.0f + e);
        return a < 0.625f ? near : x < 0 ? -far : far;
    }

    __device__ static float gradient(float x, float dy) {
        float slope;
        logistic(2.0f * x, &slope);
        return dy * (4.0f * slope);
    }
};

/* ---- Kernels: four elements at a time where `wide`, and the rest one by one ---- */

typedef mal_floats<> four;

static unsigned grid_of(const struct mal_cuda *cu, int64_t n, bool wide) {
    return mal_cuda_grid(cu, wide ? n / MAL_WIDE + 1 : n);
}

template <typename A>
__global__ static void act_fwd_each(int64_t n, bool wide, const float *x, float *y) {
    int64_t fours = wide ? n / MAL_WIDE : 0;
    MAL_EACH(i, fours) {
        four v = ((const four *)x)[i];
        for (int w = 0; w < MAL_WIDE; w++)
            v.x[w] = A::value(v.x[w]);
        ((four *)y)[i] = v;
    }
    MAL_EACH(i, n - MAL_WIDE * fours) {
        int64_t j = MAL_WIDE * fours + i;
        y[j] = A::value(x[j]);
    }
}

template <typename A>
__global__ static void act_bwd_each(int64_t n, bool wide, const float *x, const float *dy,
                                    float *dx) {
    int64_t fours = wide ? n / MAL_WIDE : 0;
    MAL_EACH(i, fours) {
        four v = ((const four *)x)[i], d = ((const four *)dy)[i];
        for (int w = 0; w < MAL_WIDE; w++)
            d.x[w] = A::gradient(v.x[w], d.x[w]);
        ((four *)dx)[i] = d;
    }
    MAL_EACH(i, n - MAL_WIDE * fours) {
        int64_t j = MAL_WIDE * fours + i;
        dx[j] = A::gradient(x[j], dy[j]);
    }
}

template <typename A>
__global__ static void glu_fwd_each(int64_t n, bool wide, const float *gate,
                                    const float *x, float *y) {
    int64_t fours = wide ? n / MAL_WIDE : 0;
    MAL_EACH(i, fours) {
        four g = ((const four *)gate)[i], v = ((const four *)x)[i];
        for (int w = 0; w < MAL_WIDE; w++)
            v.x[w] *= A::value(g.x[w]);
        ((four *)y)[i] = v;
    }
    MAL_EACH(i, n - MAL_WIDE * fours) {
        int64_t j = MAL_WIDE * fours + i;
        y[j] = A::value(gate[j]) * x[j];
    }
}

template <typename A>
__global__ static void glu_bwd_each(int64_t n, bool wide, const float *gate,
                                    const float *x, const float *dy, float *dgate,
                                    float *dx) {
    int64_t fours = wide ? n / MAL_WIDE : 0;
    MAL_EACH(i, fours) {
        four g = ((const four *)gate)[i], v = ((const four *)x)[i];
        four d = ((const four *)dy)[i], dg;
        for (int w = 0; w < MAL_WIDE; w++) {
            dg.x[w] = A::gradient(g.x[w], v.x[w] * d.x[w]);
            d.x[w] *= A::value(g.x[w]);
        }
        ((four *)dgate)[i] = dg;
        ((four *)dx)[i] = d;
    }
    MAL_EACH(i, n - MAL_WIDE * fours) {
        int64_t j = MAL_WIDE * fours + i;
        float g = gate[j], d = dy[j];
        dgate[j] = A::gradient(g, x[j] * d);
        dx[j] = A::value(g) * d;
    }
}

/* ---- Entries: tables in the order of enum mal_act ---- */

#define OF_EACH_ACT(kernel)                                              \
    {                                                                    \
        kernel<gelu_tanh>, kernel<gelu_erf>, kernel<relu>, kernel<silu>, \
            kernel<hyperbolic>                                           \
    }

void mal_cuda_act_fwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *x,
                      float *y) {
    static void (*const of[])(int64_t, bool, const float *, float *) =
        OF_EACH_ACT(act_fwd_each);
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = mal_starts_pack(x) && mal_starts_pack(y);
    auto act_fwd = of[act];
    MAL_LAUNCH(cu, act_fwd, grid_of(cu, n, wide), MAL_THREADS, 0, n, wide, x, y);
}

void mal_cuda_act_bwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *x,
                      const float *dy, float *dx) {
    static void (*const of[])(int64_t, bool, const float *, const float *, float *) =
        OF_EACH_ACT(act_bwd_each);
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = mal_starts_pack(x) && mal_starts_pack(dy) && mal_starts_pack(dx);
    auto act_bwd = of[act];
    MAL_LAUNCH(cu, act_bwd, grid_of(cu, n, wide), MAL_THREADS, 0, n, wide, x, dy, dx);
}

void mal_cuda_glu_fwd(struct mal_backend *be, enum mal_act act, int64_t n,
                      const float *gate, const float *x, float *y) {
    static void (*const of[])(int64_t, bool, const float *, const float *, float *) =
        OF_EACH_ACT(glu_fwd_each);
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = mal_starts_pack(gate) && mal_starts_pack(x) && mal_starts_pack(y);
    auto glu_fwd = of[act];
    MAL_LAUNCH(cu, glu_fwd, grid_of(cu, n, wide), MAL_THREADS, 0, n, wide, gate, x, y);
}

void mal_cuda_glu_bwd(struct mal_backend *be, enum mal_act act, int64_t n,
                      const float *gate, const float *x, const float *dy, float *dgate,
                      float *dx) {
    static void (*const of[])(int64_t, bool, const float *, const float *, const float *,
                              float *, float *) = OF_EACH_ACT(glu_bwd_each);
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = mal_starts_pack(gate) && mal_starts_pack(x) && mal_starts_pack(dy) &&
                mal_starts_pack(dgate) && mal_starts_pack(dx);
    auto glu_bwd = of[act];
    MAL_LAUNCH(cu, glu_bwd, grid_of(cu, n, wide), MAL_THREADS, 0, n, wide, gate, x, dy,
               dgate, dx);
}
