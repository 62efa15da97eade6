/* order.c - epochs, shuffles and the sizes of steps. */
#include "core/train/order.h"

#include <math.h>

#include "core/alloc.h"
#include "core/random.h"

bool mal_train_order_init(struct mal_train_order *order, struct mal_error *err) {
    order->facts = mal_calloc(order->n_facts, sizeof *order->facts);
    if (!order->facts) return mal_fail(err, MAL_NO_MEMORY, "order of the facts");
    order->made_for = -1;
    return true;
}

void mal_train_order_finish(struct mal_train_order *order) {
    mal_free(order->facts);
    order->facts = NULL;
}

/* A state that no other purpose and counter shares. */
static uint64_t state_of(const struct mal_train_order *order, uint64_t purpose,
                         int64_t counter) {
    uint64_t state = order->seed + (purpose << 56);
    state = mal_random_next(&state) + (uint64_t)counter;
    return mal_random_next(&state) | 1;
}

enum { ORDER = 1, SIZE = 2, DRAWS = 3 };

static void make_order(struct mal_train_order *order) {
    uint64_t state = state_of(order, ORDER, order->epoch);
    for (size_t i = 0; i < order->n_facts; i++)
        order->facts[i] = i;
    for (size_t i = order->n_facts; order->shuffle && i > 1; i--) { /* Fisher and Yates */
        size_t j = mal_random_below(&state, i), fact = order->facts[j];
        order->facts[j] = order->facts[i - 1];
        order->facts[i - 1] = fact;
    }
    order->made_for = order->epoch;
}

static size_t draw_size(const struct mal_train_order *order) {
    if (order->min_edits == order->max_edits) return (size_t)order->min_edits;
    uint64_t state = state_of(order, SIZE, order->step);
    double low = log((double)order->min_edits), high = log((double)order->max_edits + 1);
    int64_t n = (int64_t)exp(low + (high - low) * mal_random_uniform(&state));
    return (size_t)(n > order->max_edits ? order->max_edits : n);
}

bool mal_train_order_next(struct mal_train_order *order, const size_t **out_facts,
                          size_t *out_n, uint64_t *out_seed) {
    if (order->at >= order->n_facts) {
        order->epoch++;
        order->at = 0;
    }
    if (order->epoch >= order->epochs) return false;
    if (order->made_for != order->epoch) make_order(order);
    size_t n = draw_size(order), left = order->n_facts - order->at;
    *out_facts = order->facts + order->at;
    *out_n = n < left ? n : left;
    *out_seed = order->shuffle ? state_of(order, DRAWS, order->step) : 0;
    order->at += *out_n;
    order->step++;
    return true;
}

int64_t mal_train_order_done(const struct mal_train_order *order) {
    return order->epoch * (int64_t)order->n_facts + (int64_t)order->at;
}

int64_t mal_train_order_total(const struct mal_train_order *order) {
    return order->epochs * (int64_t)order->n_facts;
}
