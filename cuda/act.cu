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

/* ---- Kernels: packs of W elements, which a row has a whole number of ---- */

/* Rows of c. */
template <typename A, typename Y, int W>
__global__ static void act_fwd_rows(int64_t n, int64_t c, const float *x,
                                    const float *bias, Y *y) {
    MAL_EACH_ROW(i, n)
    MAL_EACH(j, c / W) {
        mal_floats<W> v = ((const mal_floats<W> *)(x + i * c))[j];
        if (bias) {
            mal_floats<W> b = ((const mal_floats<W> *)bias)[j];
            for (int w = 0; w < W; w++)
                v.x[w] += b.x[w];
        }
        mal_pack<Y, W> out;
        for (int w = 0; w < W; w++)
            mal_set(&out.x[w], A::value(v.x[w]));
        ((mal_pack<Y, W> *)(y + i * c))[j] = out;
    }
}

template <typename A, int W>
__global__ static void act_bwd_each(int64_t n, const float *x, const float *dy,
                                    float *dx) {
    MAL_EACH(i, n / W) {
        mal_floats<W> v = ((const mal_floats<W> *)x)[i];
        mal_floats<W> d = ((const mal_floats<W> *)dy)[i];
        for (int w = 0; w < W; w++)
            d.x[w] = A::gradient(v.x[w], d.x[w]);
        ((mal_floats<W> *)dx)[i] = d;
    }
}

template <typename A, typename Y, int W>
__global__ static void glu_fwd_each(int64_t n, const float *gate, const float *x, Y *y) {
    MAL_EACH(i, n / W) {
        mal_floats<W> g = ((const mal_floats<W> *)gate)[i];
        mal_floats<W> v = ((const mal_floats<W> *)x)[i];
        mal_pack<Y, W> out;
        for (int w = 0; w < W; w++)
            mal_set(&out.x[w], A::value(g.x[w]) * v.x[w]);
        ((mal_pack<Y, W> *)y)[i] = out;
    }
}

template <typename A, int W>
__global__ static void glu_bwd_each(int64_t n, const float *gate, const float *x,
                                    const float *dy, float *dgate, float *dx) {
    MAL_EACH(i, n / W) {
        mal_floats<W> g = ((const mal_floats<W> *)gate)[i];
        mal_floats<W> v = ((const mal_floats<W> *)x)[i];
        mal_floats<W> d = ((const mal_floats<W> *)dy)[i], dg;
        for (int w = 0; w < W; w++) {
            dg.x[w] = A::gradient(g.x[w], v.x[w] * d.x[w]);
            d.x[w] *= A::value(g.x[w]);
        }
        ((mal_floats<W> *)dgate)[i] = dg;
        ((mal_floats<W> *)dx)[i] = d;
    }
}

/* ---- Caps ---- */

__global__ static void cap_fwd_each(int64_t n, float cap, float *x) {
    MAL_EACH(i, n) {
        x[i] = cap * hyperbolic::value(x[i] / cap);
    }
}

__global__ static void cap_bwd_each(int64_t n, float cap, const float *y, float *dy) {
    MAL_EACH(i, n) {
        float t = y[i] / cap;
        dy[i] *= 1 - t * t;
    }
}

void mal_cuda_cap_fwd(struct mal_backend *be, int64_t n, float cap, float *x) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, cap_fwd_each, mal_cuda_grid(cu, n), MAL_THREADS, 0, n, cap, x);
}

void mal_cuda_cap_bwd(struct mal_backend *be, int64_t n, float cap, const float *y,
                      float *dy) {
    struct mal_cuda *cu = mal_cuda_of(be);
    MAL_LAUNCH(cu, cap_bwd_each, mal_cuda_grid(cu, n), MAL_THREADS, 0, n, cap, y, dy);
}

/* ---- Entries: tables in the order of enum mal_act ---- */

#define OF_EACH_ACT(kernel, ...)                                       \
    {                                                                  \
        kernel<gelu_tanh, __VA_ARGS__>, kernel<gelu_erf, __VA_ARGS__>, \
            kernel<relu, __VA_ARGS__>, kernel<silu, __VA_ARGS__>,      \
            kernel<hyperbolic, __VA_ARGS__>                            \
    }

template <typename Y, int W>
static void act_fwd_packs(struct mal_cuda *cu, enum mal_act act, int64_t n, int64_t c,
                          const float *x, const float *bias, Y *y) {
    static void (*const of[])(int64_t, int64_t, const float *, const float *, Y *) =
        OF_EACH_ACT(act_fwd_rows, Y, W);
    auto act_fwd = of[act];
    MAL_LAUNCH(cu, act_fwd, mal_cuda_grid_rows(cu, n, c / W), MAL_THREADS, 0, n, c, x,
               bias, y);
}

template <int W>
static void act_bwd_packs(struct mal_cuda *cu, enum mal_act act, int64_t n,
                          const float *x, const float *dy, float *dx) {
    static void (*const of[])(int64_t, const float *, const float *, float *) =
        OF_EACH_ACT(act_bwd_each, W);
    auto act_bwd = of[act];
    MAL_LAUNCH(cu, act_bwd, mal_cuda_grid(cu, n / W), MAL_THREADS, 0, n, x, dy, dx);
}

template <typename Y, int W>
static void glu_fwd_packs(struct mal_cuda *cu, enum mal_act act, int64_t n,
                          const float *gate, const float *x, Y *y) {
    static void (*const of[])(int64_t, const float *, const float *, Y *) =
        OF_EACH_ACT(glu_fwd_each, Y, W);
    auto glu_fwd = of[act];
    MAL_LAUNCH(cu, glu_fwd, mal_cuda_grid(cu, n / W), MAL_THREADS, 0, n, gate, x, y);
}

template <int W>
static void glu_bwd_packs(struct mal_cuda *cu, enum mal_act act, int64_t n,
                          const float *gate, const float *x, const float *dy,
                          float *dgate, float *dx) {
    static void (*const of[])(int64_t, const float *, const float *, const float *,
                              float *, float *) = OF_EACH_ACT(glu_bwd_each, W);
    auto glu_bwd = of[act];
    MAL_LAUNCH(cu, glu_bwd, mal_cuda_grid(cu, n / W), MAL_THREADS, 0, n, gate, x, dy,
               dgate, dx);
}

template <typename Y>
static void act_fwd_to(struct mal_cuda *cu, enum mal_act act, int64_t n, int64_t c,
                       const float *x, const float *bias, Y *y) {
    bool wide = c % MAL_WIDE == 0 && mal_starts_pack(x) && mal_starts_pack(bias) &&
                mal_starts_pack(y);
    (wide ? act_fwd_packs<Y, MAL_WIDE> : act_fwd_packs<Y, 1>)(cu, act, n, c, x, bias, y);
}

void mal_cuda_act_fwd(struct mal_backend *be, enum mal_act act, int64_t n, int64_t c,
                      const float *x, const float *bias, void *y,
                      enum mal_dtype y_dtype) {
    struct mal_cuda *cu = mal_cuda_of(be);
    if (!bias) { /* no element knows its row */
        c *= n;
        n = 1;
    }
    if (y_dtype == MAL_F32)
        act_fwd_to(cu, act, n, c, x, bias, (float *)y);
    else
        act_fwd_to(cu, act, n, c, x, bias, (mal_bf16 *)y);
}

void mal_cuda_act_bwd(struct mal_backend *be, enum mal_act act, int64_t n, const float *x,
                      const float *dy, float *dx) {
    bool wide = n % MAL_WIDE == 0 && mal_starts_pack(x) && mal_starts_pack(dy) &&
                mal_starts_pack(dx);
    (wide ? act_bwd_packs<MAL_WIDE> : act_bwd_packs<1>)(mal_cuda_of(be), act, n, x, dy,
                                                        dx);
}

template <typename Y>
static void glu_fwd_to(struct mal_cuda *cu, enum mal_act act, int64_t n,
                       const float *gate, const float *x, Y *y) {
    bool wide = n % MAL_WIDE == 0 && mal_starts_pack(gate) && mal_starts_pack(x) &&
                mal_starts_pack(y);
    (wide ? glu_fwd_packs<Y, MAL_WIDE> : glu_fwd_packs<Y, 1>)(cu, act, n, gate, x, y);
}

void mal_cuda_glu_fwd(struct mal_backend *be, enum mal_act act, int64_t n,
                      const float *gate, const float *x, void *y,
                      enum mal_dtype y_dtype) {
    struct mal_cuda *cu = mal_cuda_of(be);
    if (y_dtype == MAL_F32)
        glu_fwd_to(cu, act, n, gate, x, (float *)y);
    else
        glu_fwd_to(cu, act, n, gate, x, (mal_bf16 *)y);
}

void mal_cuda_glu_bwd(struct mal_backend *be, enum mal_act act, int64_t n,
                      const float *gate, const float *x, const float *dy, float *dgate,
                      float *dx) {
    bool wide = n % MAL_WIDE == 0 && mal_starts_pack(gate) && mal_starts_pack(x) &&
                mal_starts_pack(dy) && mal_starts_pack(dgate) && mal_starts_pack(dx);
    (wide ? glu_bwd_packs<MAL_WIDE> : glu_bwd_packs<1>)(mal_cuda_of(be), act, n, gate, x,
                                                        dy, dgate, dx);
}
