/* reference.h - the transformer's operations in plain double-precision C, for comparison.
 */
#ifndef MAL_TEST_REFERENCE_H
#define MAL_TEST_REFERENCE_H

#include <math.h>
#include <stdbool.h>
#include <stdint.h>

#include "core/backend.h"

static inline void ref_norm(const struct mal_norm *norm, const float *gain,
                            const float *bias, const double *x, double *y) {
    for (int64_t i = 0; i < norm->n; i++, x += norm->c, y += norm->c) {
        double mean = 0, square = 0;
        for (int64_t j = 0; j < norm->c; j++)
            mean += norm->rms ? 0 : x[j] / (double)norm->c;
        for (int64_t j = 0; j < norm->c; j++)
            square += (x[j] - mean) * (x[j] - mean) / (double)norm->c;
        for (int64_t j = 0; j < norm->c; j++)
            y[j] = (x[j] - mean) / sqrt(square + (double)norm->eps) * (double)gain[j] +
                   (bias ? (double)bias[j] : 0);
    }
}

static inline double ref_act(enum mal_act act, double x) {
    switch (act) {
    case MAL_GELU_TANH:
        return 0.5 * x * (1 + tanh(0.79788456080286535588 * (x + 0.044715 * x * x * x)));
    case MAL_GELU_ERF: return 0.5 * x * erfc(-x * 0.70710678118654752440);
    case MAL_RELU: return x < 0 ? 0 : x;
    case MAL_SILU: return x / (1 + exp(-x));
    case MAL_TANH: return tanh(x);
    }
    return NAN;
}

/* What is added to the score of a query at p and a key at t, by head h. */
static inline double ref_rel_bias(const struct mal_attn *attn, const float *rel_bias,
                                  int64_t h, int64_t p, int64_t t) {
    int64_t span = attn->rel_span, distance = t - p;
    if (!rel_bias) return 0;
    if (distance > span) distance = span;
    if (distance < -span) distance = -span;
    return (double)rel_bias[h * (2 * span + 1) + distance + span];
}

/* q, k, v and out without strides; index arrays and biases as in `attn`, in host memory.
 * lse may be NULL. */
static inline void ref_attn(const struct mal_attn *attn, const int32_t *q_start,
                            const int32_t *k_start, const int32_t *k_len,
                            const float *rel_bias, const double *q, const double *k,
                            const double *v, double *out, double *lse) {
    int64_t d = attn->head_size, h_n = attn->n_heads, kv_n = attn->n_kv_heads;
    for (int64_t s = 0; s < attn->n_seqs; s++) {
        int64_t n_q = q_start[s + 1] - q_start[s];
        for (int64_t i = 0; i < n_q; i++) {
            for (int64_t h = 0; h < h_n; h++) {
                int64_t row = q_start[s] + i, head = h / (h_n / kv_n);
                int64_t p = k_len[s] - n_q + i, first = 0;
                int64_t end = attn->causal ? p + 1 : k_len[s];
                if (attn->window && p + 1 > attn->window) first = p + 1 - attn->window;
                const double *qi = q + (row * h_n + h) * d;
                double *o = out + (row * h_n + h) * d;
                double max = -INFINITY, sum = 0;
                for (int pass = 0; pass < 2; pass++) {
                    for (int64_t j = first; j < end; j++) {
                        int64_t at = ((k_start[s] + j) * kv_n + head) * d;
                        double score = 0;
                        for (int64_t c = 0; c < d; c++)
                            score += qi[c] * k[at + c];
                        score *= (double)attn->scale;
                        if (attn->cap > 0)
                            score = (double)attn->cap * tanh(score / (double)attn->cap);
                        score += ref_rel_bias(attn, rel_bias, h, p, j);
                        if (pass == 0) {
                            max = score > max ? score : max;
                            continue;
                        }
                        for (int64_t c = 0; c < d; c++)
                            o[c] = (j > first ? o[c] : 0) + exp(score - max) * v[at + c];
                        sum += exp(score - max);
                    }
                }
                for (int64_t c = 0; c < d; c++)
                    o[c] /= sum;
                if (lse) lse[row * h_n + h] = max + log(sum);
            }
        }
    }
}

static inline double ref_logprob(int64_t v, const double *x, int32_t label) {
    double max = x[0], sum = 0;
    for (int64_t j = 0; j < v; j++)
        max = x[j] > max ? x[j] : max;
    for (int64_t j = 0; j < v; j++)
        sum += exp(x[j] - max);
    return x[label] - max - log(sum);
}

/* Central difference of loss(arg) by *x. */
static inline double slope(double *x, double (*loss)(const void *arg), const void *arg) {
    double h = 1e-5, kept = *x;
    *x = kept + h;
    double above = loss(arg);
    *x = kept - h;
    double below = loss(arg);
    *x = kept;
    return (above - below) / (2 * h);
}

#endif
