/* xent.cu - log-probability, rank and largest entry of rows of logits, divergence of two
 * rows, and their gradients.
 *
 * A block a row, which is read once for all that is asked of it: each thread sums up
 * exp(x - largest so far), and scales its sum when a larger one comes. The largest of the
 * first tile, which the block finds together, makes that rare. */
#include <math.h>

#include "cuda/impl.h"
#include "cuda/number.h"
#include "cuda/reduce.h"

enum { MOST_THREADS = 512, TILE = 8 /* elements of a thread */ };

/* As mal_block_sum(); of no NaN. */
template <typename T> __device__ static T block_max(T x) {
    __shared__ T part[MAL_WARP];
    int warp = threadIdx.x / MAL_WARP, lane = threadIdx.x % MAL_WARP;
    x = mal_warp_max(x);
    __syncthreads(); /* the last maximum has been read */
    if (lane == 0) part[warp] = x;
    __syncthreads();
    return mal_warp_max(part[lane < (int)blockDim.x / MAL_WARP ? lane : 0]);
}

/* ---- One pass over a row ---- */

/* What is asked for; the largest element is found always. */
enum { SUM = 1, PLACE = 2, RANK = 4 };

struct row_facts {
    float max;     /* of those that are numbers */
    int32_t first; /* PLACE: id of the first that is `max` */
    bool nan;      /* PLACE: there is a NaN */
    int32_t ahead; /* RANK: how many come before the label */
    double sum;    /* SUM: of exp(x - max); NaN if there is a NaN */
};

struct row_label {
    int32_t id;
    float logit;
};

/* What a thread has seen of a row. */
struct row_scan {
    float max;
    int32_t first; /* of its elements that are `max`; INT32_MAX: none is */
    double sum;
    int32_t ahead;
    bool nan;
};

/* This thread's packs of the tile that begins with pack p0; -infinity behind the end. */
template <int W> struct tile {
    mal_floats<W> in[TILE / W];

    __device__ void load(const mal_floats<W> *row, int32_t packs, int32_t p0) {
#pragma unroll
        for (int k = 0; k < TILE / W; k++) {
            int32_t p = p0 + (int32_t)(k * blockDim.x + threadIdx.x);
            for (int w = 0; w < W; w++)
                in[k].x[w] = -INFINITY;
            if (p < packs) in[k] = row[p];
        }
    }

    __device__ float max() const {
        float max = -INFINITY;
#pragma unroll
        for (int k = 0; k < TILE / W; k++)
            for (int w = 0; w < W; w++)
                max = fmaxf(max, in[k].x[w]);
        return max;
    }

    __device__ static int32_t id(int32_t p0, int k, int w) {
        return (p0 + (int32_t)(k * blockDim.x + threadIdx.x)) * W + w;
    }

    /* The id of the first that equals `value`; INT32_MAX: none does. */
    __device__ int32_t find(int32_t p0, float value) const {
        int32_t first = INT32_MAX;
#pragma unroll
        for (int k = TILE / W - 1; k >= 0; k--)
            for (int w = W - 1; w >= 0; w--)
                first = in[k].x[w] == value ? id(p0, k, w) : first;
        return first;
    }
};

template <int W, int asked>
__device__ static void scan_tile(const tile<W> &t, int32_t p0, struct row_label label,
                                 struct row_scan *scan) {
    /* Without a number so far nothing may be subtracted. */
    float from = scan->max == -INFINITY ? 0 : scan->max;
#pragma unroll
    for (int k = 0; k < TILE / W; k++) {
        for (int w = 0; w < W; w++) {
            float x = t.in[k].x[w];
            if (asked & SUM) scan->sum += (double)expf(x - from);
            if (asked & PLACE) scan->nan |= x != x;
            if (asked & RANK)
                scan->ahead += x > label.logit ||
                               (x == label.logit && tile<W>::id(p0, k, w) < label.id);
        }
    }
}

/* What all threads have seen. */
template <int asked>
__device__ static struct row_facts join(const struct row_scan &scan) {
    struct row_facts facts = {};
    facts.max = block_max(scan.max);
    bool top = scan.max == facts.max;
    if (asked & SUM) {
        double share =
            top ? scan.sum : scan.sum * exp((double)scan.max - (double)facts.max);
        facts.sum = mal_block_sum(share);
    }
    if (asked & PLACE) {
        facts.first = -block_max(top ? -scan.first : -INT32_MAX);
        if (facts.max == -INFINITY) facts.first = 0;
        unsigned long long counts = (unsigned long long)scan.nan << 32;
        counts = mal_block_sum(counts + (unsigned)scan.ahead);
        facts.nan = counts >> 32 != 0;
        facts.ahead = (int32_t)(counts & 0xffffffffu);
    }
    return facts;
}

/* A thread that has none of the first tile's largest still starts from that. If a later
 * tile has the same value again, it is not the first, so `first` need not be set. */
template <int W, int asked>
__device__ static struct row_facts scan_row(int64_t v, const float *row,
                                            struct row_label label) {
    struct row_scan scan = {-INFINITY, INT32_MAX, 0, 0, false};
    int32_t packs = (int32_t)(v / W), step = (int32_t)blockDim.x * (TILE / W);
    for (int32_t p0 = 0; p0 < packs; p0 += step) {
        tile<W> t;
        t.load((const mal_floats<W> *)row, packs, p0);
        float max = t.max();
        if (p0 == 0) max = block_max(max);
        if (max > scan.max) {
            if (asked & SUM) scan.sum *= exp((double)scan.max - (double)max);
            if (asked & PLACE) scan.first = t.find(p0, max);
            scan.max = max;
        }
        scan_tile<W, asked>(t, p0, label, &scan);
    }
    return join<asked>(scan);
}

/* No more than find something to do. */
static unsigned threads_of(int64_t v) {
    int64_t threads = ((v + TILE - 1) / TILE + 31) / 32 * 32;
    return threads < MOST_THREADS ? (unsigned)threads : (unsigned)MOST_THREADS;
}

static bool rows_of_packs(int64_t v, const float *x) {
    return v % MAL_WIDE == 0 && mal_starts_pack(x);
}

/* ---- Log-probabilities, ranks, largest ---- */

template <int W>
__global__ static void __launch_bounds__(MOST_THREADS)
    argmax_rows(int64_t v, const float *logits, int32_t *argmax) {
    int64_t i = blockIdx.x;
    struct row_facts row = scan_row<W, PLACE>(v, logits + i * v, row_label{-1, 0});
    if (threadIdx.x == 0) argmax[i] = row.nan ? -1 : row.first;
}

template <int W>
__global__ static void __launch_bounds__(MOST_THREADS)
    fwd_rows(int64_t v, const float *logits, const int32_t *label, float *logprob,
             int32_t *rank, int32_t *argmax) {
    int64_t i = blockIdx.x;
    const float *x = logits + i * v;
    struct row_label own = {label[i], 0};
    if (own.id >= 0) own.logit = x[own.id];
    struct row_facts row = scan_row<W, SUM | PLACE | RANK>(v, x, own);
    if (threadIdx.x > 0) return;

    bool none = own.id < 0 || row.nan;
    argmax[i] = row.nan ? -1 : row.first;
    rank[i] = none ? 0 : 1 + row.ahead;
    logprob[i] = row.nan ? NAN
                 : none  ? 0
                         : (float)((double)own.logit - (double)row.max - log(row.sum));
}

void mal_cuda_xent_fwd(struct mal_backend *be, int64_t n, int64_t v, const float *logits,
                       const int32_t *label, float *logprob, int32_t *rank,
                       int32_t *argmax) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = rows_of_packs(v, logits);
    if (label) {
        auto xent_fwd = wide ? fwd_rows<MAL_WIDE> : fwd_rows<1>;
        MAL_LAUNCH(cu, xent_fwd, (unsigned)n, threads_of(v), 0, v, logits, label, logprob,
                   rank, argmax);
    } else {
        auto xent_argmax = wide ? argmax_rows<MAL_WIDE> : argmax_rows<1>;
        MAL_LAUNCH(cu, xent_argmax, (unsigned)n, threads_of(v), 0, v, logits, argmax);
    }
}

/* ---- Gradients ---- */

template <int W>
__device__ static void bwd_row(int64_t v, float *x, int32_t label, float scale) {
    float own = x[label];
    struct row_facts row = scan_row<W, SUM>(v, x, row_label{-1, 0});
    float factor = (float)((double)scale / row.sum);
    mal_floats<W> *packs = (mal_floats<W> *)x;
    /* Backwards: what was read last is in the cache still. */
    for (int64_t p = v / W - 1 - threadIdx.x; p >= 0; p -= blockDim.x) {
        mal_floats<W> out = packs[p];
        for (int w = 0; w < W; w++)
            out.x[w] = expf(out.x[w] - row.max) * factor;
        packs[p] = out;
    }
    __syncthreads();
    /* p - 1 of the label is minus the sum of the others: exact where p is close to 1. */
    double others = row.sum - (double)expf(own - row.max);
    if (threadIdx.x == 0) x[label] = (float)(-(double)scale * others / row.sum);
}

template <int W>
__global__ static void __launch_bounds__(MOST_THREADS)
    bwd_rows(int64_t v, float *logits, const int32_t *label, const float *scale) {
    int64_t i = blockIdx.x;
    if (label[i] >= 0) {
        bwd_row<W>(v, logits + i * v, label[i], scale[i]);
        return;
    }
    mal_floats<W> zero = {}, *row = (mal_floats<W> *)(logits + i * v);
    for (int64_t p = threadIdx.x; p < v / W; p += blockDim.x)
        row[p] = zero;
}

void mal_cuda_xent_bwd(struct mal_backend *be, int64_t n, int64_t v, float *logits,
                       const int32_t *label, const float *scale) {
    struct mal_cuda *cu = mal_cuda_of(be);
    auto xent_bwd = rows_of_packs(v, logits) ? bwd_rows<MAL_WIDE> : bwd_rows<1>;
    MAL_LAUNCH(cu, xent_bwd, (unsigned)n, threads_of(v), 0, v, logits, label, scale);
}

/* ---- Divergence ---- */

struct softmax_of {
    float max, inverse; /* p = exp(x - max) inverse */
    double sum;
};

/* logits := scale (q - p); returns this thread's part of sum p (x - y), of which the
 * divergence is left when the log-sums are put in. */
template <int W>
__device__ static double kl_row(int64_t v, const float *x, struct softmax_of base,
                                float *y, struct softmax_of own, float scale) {
    double s = 0;
    for (int64_t j = v / W - 1 - threadIdx.x; j >= 0; j -= blockDim.x) {
        mal_floats<W> in = ((const mal_floats<W> *)x)[j], out = ((mal_floats<W> *)y)[j];
        for (int w = 0; w < W; w++) {
            float a = in.x[w] - base.max, b = out.x[w] - own.max;
            /* Rounded before they are subtracted: of equal rows nothing is left. */
            float p = __fmul_rn(expf(a), base.inverse);
            float q = __fmul_rn(expf(b), own.inverse);
            s = fma((double)p, (double)a - (double)b, s);
            out.x[w] = scale * (q - p);
        }
        ((mal_floats<W> *)y)[j] = out;
    }
    return s;
}

/* Of a row of the base's logits x and one of those now, y. */
template <int W>
__device__ static void softmax_both(int64_t v, const float *x, const float *y,
                                    struct softmax_of *p, struct softmax_of *q) {
    /* One copy of the code for both, which equal rows need too. */
#pragma unroll 1
    for (int side = 0; side < 2; side++) {
        struct row_facts row = scan_row<W, SUM>(v, side ? y : x, row_label{-1, 0});
        *p = *q;
        *q = softmax_of{row.max, (float)(1 / row.sum), row.sum};
    }
}

template <int W>
__global__ static void __launch_bounds__(MOST_THREADS)
    kl_rows(int64_t v, const float *base, float *logits, const float *scale, float *kl) {
    int64_t i = blockIdx.x;
    const float *x = base + i * v;
    float *y = logits + i * v;
    struct softmax_of p = {}, q = {};
    softmax_both<W>(v, x, y, &p, &q);
    double s = mal_block_sum(kl_row<W>(v, x, p, y, q, scale[i]));
    if (threadIdx.x == 0) kl[i] = (float)(s - log(p.sum) + log(q.sum));
}

/* This thread's part of sum q (y - x - shift). */
template <int W>
__device__ static double kl_now_sum(int64_t v, const float *x, const float *y,
                                    struct softmax_of own, double shift) {
    double s = 0;
    for (int64_t j = v / W - 1 - threadIdx.x; j >= 0; j -= blockDim.x) {
        mal_floats<W> in = ((const mal_floats<W> *)x)[j];
        mal_floats<W> out = ((const mal_floats<W> *)y)[j];
        for (int w = 0; w < W; w++) {
            float q = expf(out.x[w] - own.max) * own.inverse;
            s = fma((double)q, (double)out.x[w] - (double)in.x[w] - shift, s);
        }
    }
    return s;
}

/* The log-sums cancel in log q - log p - kl. */
template <int W>
__global__ static void __launch_bounds__(MOST_THREADS)
    kl_now_rows(int64_t v, const float *base, float *logits, const float *scale,
                float *kl) {
    int64_t i = blockIdx.x;
    const float *x = base + i * v;
    float *y = logits + i * v;
    struct softmax_of p = {}, q = {};
    softmax_both<W>(v, x, y, &p, &q);
    double shift = (double)q.max - (double)p.max;
    double s = mal_block_sum(kl_now_sum<W>(v, x, y, q, shift));
    if (threadIdx.x == 0) kl[i] = (float)(s - log(q.sum) + log(p.sum));
    float factor = (float)((double)scale[i] / q.sum);
    for (int64_t j = threadIdx.x; j < v / W; j += blockDim.x) {
        mal_floats<W> in = ((const mal_floats<W> *)x)[j], out = ((mal_floats<W> *)y)[j];
        for (int w = 0; w < W; w++) {
            double ahead = (double)out.x[w] - (double)in.x[w] - shift - s;
            out.x[w] = factor * expf(out.x[w] - q.max) * (float)ahead;
        }
        ((mal_floats<W> *)y)[j] = out;
    }
}

void mal_cuda_kl(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                 float *logits, const float *scale, float *kl) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = rows_of_packs(v, base) && rows_of_packs(v, logits);
    auto kl_all = wide ? kl_rows<MAL_WIDE> : kl_rows<1>;
    MAL_LAUNCH(cu, kl_all, (unsigned)n, threads_of(v), 0, v, base, logits, scale, kl);
}

void mal_cuda_kl_now(struct mal_backend *be, int64_t n, int64_t v, const float *base,
                     float *logits, const float *scale, float *kl) {
    struct mal_cuda *cu = mal_cuda_of(be);
    bool wide = rows_of_packs(v, base) && rows_of_packs(v, logits);
    auto kl_all = wide ? kl_now_rows<MAL_WIDE> : kl_now_rows<1>;
    MAL_LAUNCH(cu, kl_all, (unsigned)n, threads_of(v), 0, v, base, logits, scale, kl);
}
