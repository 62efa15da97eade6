/* sample.c - temperature and nucleus sampling on the host. */
#include "core/model/sample.h"

#include <math.h>
#include <stdlib.h>

#include "core/random.h"

/* Most probable first; equal ones by id, so that the order is the same everywhere. */
static int by_probability(const void *a, const void *b) {
    const struct mal_candidate *x = a, *y = b;
    if (x->p != y->p) return x->p < y->p ? 1 : -1;
    return (x->id > y->id) - (x->id < y->id);
}

int32_t mal_sample(const float *logits, int64_t v, float temperature, float top_p,
                   uint64_t *state, struct mal_candidate *scratch) {
    float max = logits[0];
    for (int64_t i = 1; i < v; i++)
        max = logits[i] > max ? logits[i] : max;
    double total = 0;
    for (int64_t i = 0; i < v; i++) {
        float p = expf((logits[i] - max) / temperature);
        scratch[i] = (struct mal_candidate){(int32_t)i, p};
        total += (double)p;
    }
    if (top_p < 1) {
        qsort(scratch, (size_t)v, sizeof *scratch, by_probability);
        double wanted = (double)top_p * total, sum = 0;
        int64_t n = 0;
        while (n < v && (n == 0 || sum < wanted))
            sum += (double)scratch[n++].p;
        v = n;
        total = sum;
    }
    double x = mal_random_unit(state) * total;
    for (int64_t i = 0; i < v; i++) {
        x -= (double)scratch[i].p;
        if (x < 0) return scratch[i].id;
    }
    return scratch[v - 1].id;
}
