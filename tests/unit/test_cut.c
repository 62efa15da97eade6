/* test_cut.c - texts cut at a block's output: states, losses and gradients against passes
 * through whole models, and against differences where the states have moved. */
#include "each_model.h"

#include "core/model/cut.h"

/* Rows that change in the middle, at the first, at the last row; rows between it and the
 * labels, or none; two that are to stay, one of them a single token. */
enum { N_TEXTS = 6, LONGEST = 9 };

static const struct {
    int32_t n, at, from;
    bool stays;
    float scale;
} made[N_TEXTS] = {{9, 2, 4, false, 0.5f}, {5, 4, 4, true, 2},     {7, 0, 0, false, 1},
                   {6, 5, 5, false, 3},    {1, 0, 0, true, -1.5f}, {8, 3, 7, false, 1}};

struct texts {
    struct mal_cut_text all[N_TEXTS];
    int32_t ids[N_TEXTS][LONGEST], labels[N_TEXTS][LONGEST];
};

static void make_texts(struct texts *t) {
    uint64_t seed = 31;
    for (size_t i = 0; i < N_TEXTS; i++) {
        for (int32_t k = 0; k < LONGEST; k++) {
            t->ids[i][k] = random_id(&seed, model->info.n_vocab);
            t->labels[i][k] = random_id(&seed, model->info.n_vocab);
        }
        t->all[i] = (struct mal_cut_text){.ids = t->ids[i],
                                          .n = made[i].n,
                                          .at = made[i].at,
                                          .from = made[i].from,
                                          .labels = made[i].stays ? NULL : t->labels[i],
                                          .scale = made[i].scale};
    }
}

/* Causal models with a block above the first. */
static bool can_be_cut(void) {
    return model->info.kind == MAL_MODEL_CAUSAL && model->decoder.n > 1;
}

static int64_t n_cuts(void) {
    return can_be_cut() ? model->decoder.n - 1 : 0;
}

static struct mal_cut *begin(const struct texts *t, int64_t block) {
    struct mal_error err = {0};
    struct mal_cut *cut = NULL;
    assert_ok(mal_cut_create(&cut, model, block, t->all, N_TEXTS, &err), &err);
    assert_ok(mal_cut_begin(cut, 2, N_TEXTS - 2, &err), &err); /* in any order */
    assert_ok(mal_cut_begin(cut, 0, 2, &err), &err);
    return cut;
}

struct found {
    double losses[N_TEXTS];
    float *grads; /* (N_TEXTS, C), owned */
};

static struct found measure(struct mal_cut *cut, const size_t *which, size_t n,
                            const float *states) {
    struct mal_error err = {0};
    struct found f = {
        .grads = mal_calloc((size_t)(N_TEXTS * model->info.n_channels), sizeof *f.grads)};
    assert_non_null(f.grads);
    assert_ok(mal_cut_measure(cut, which, n, states, f.losses, f.grads, &err), &err);
    return f;
}

static const size_t all_of_them[N_TEXTS] = {0, 1, 2, 3, 4, 5};

static void check_near(const char *what, size_t text, const float *got, const float *want,
                       int64_t n, double tolerance) {
    for (int64_t i = 0; i < n; i++) {
        double limit = tolerance * (1 + fabs((double)want[i]));
        if (fabs((double)got[i] - (double)want[i]) <= limit) continue;
        fail_msg("%s of text %zu, element %lld: %g, must be %g", what, text, (long long)i,
                 (double)got[i], (double)want[i]);
    }
}

/* ---- Where nothing has moved: a whole pass says the same ---- */

/* The gradient at a block's output is that at the output of its MLP's last layer, where
 * no norm stands between them. */
static void whole_pass(const struct mal_cut_text *text, int64_t block, double *loss,
                       float *grad, float *state) {
    int64_t c = model->info.n_channels, rows = text->n - text->at;
    const struct mal_linear *down = &model->decoder.blocks[block].mlp.down;
    const char *name = down->name;
    int32_t start[] = {0, text->n}, labels[LONGEST];
    struct mal_error err = {0};
    memset(labels, 0xff, sizeof labels);
    for (int32_t k = text->from; k < text->n; k++)
        labels[k] = text->labels ? text->labels[k - text->from] : -1;
    struct mal_batch batch = {.n_seqs = 1,
                              .start = start,
                              .ids = text->ids,
                              .from = &text->at,
                              .labels = labels};
    assert_ok(mal_model_set_edits(model, &name, 1, &err), &err);
    float *u = on_device(NULL, rows * down->d_in), *g = on_device(NULL, rows * c);
    struct mal_measure m = {.loss_scale = text->scale, .u = &u, .g = &g, .loss = loss};
    assert_ok(mal_model_measure(model, &batch, &m, &err), &err);
    from_device(grad, g, c);
    float *x = on_device(NULL, rows * c);
    struct mal_inside inside = {.block = block, .x = x};
    assert_ok(mal_model_inside(model, &batch, &inside, &err), &err);
    from_device(state, x, c);
    free_device(u);
    free_device(g);
    free_device(x);
}

static void test_unmoved(void **state) {
    static float grad[128], below[128];
    for (int64_t block = 0; block < n_cuts(); block++) {
        int64_t c = model->info.n_channels;
        struct texts t;
        make_texts(&t);
        struct mal_cut *cut = begin(&t, block);
        struct found f = measure(cut, all_of_them, N_TEXTS, mal_cut_states(cut));
        for (size_t i = 0; i < N_TEXTS; i++) {
            double loss = 0;
            whole_pass(&t.all[i], block, &loss, grad, below);
            check_near("state", i, mal_cut_states(cut) + (int64_t)i * c, below, c, 2e-6);
            /* What is to stay is where it was, and pulled nowhere. */
            if (made[i].stays) memset(grad, 0, sizeof grad);
            if (made[i].stays) loss = 0;
            assert_true(fabs(f.losses[i] - loss) <= 2e-6 * (1 + loss));
            if (!made[i].stays && mal_norms_output(&model->decoder)) continue;
            check_near("gradient", i, f.grads + (int64_t)i * c, grad, c, 2e-5);
        }
        mal_free(f.grads);
        mal_cut_destroy(cut);
    }
}

/* ---- Where the states have moved ---- */

static double weighed(const struct found *f, const size_t *which, size_t n) {
    double sum = 0;
    for (size_t i = 0; i < n; i++)
        sum += (double)made[which[i]].scale * f->losses[i];
    return sum;
}

static double loss_at(struct mal_cut *cut, const float *states) {
    struct found f = measure(cut, all_of_them, N_TEXTS, states);
    mal_free(f.grads);
    return weighed(&f, all_of_them, N_TEXTS);
}

static float *moved_states(const struct mal_cut *cut) {
    int64_t n = N_TEXTS * model->info.n_channels;
    float *moved = random_floats(n, 0.7f, 99);
    for (int64_t i = 0; i < n; i++)
        moved[i] += mal_cut_states(cut)[i];
    return moved;
}

static void test_gradients(void **state) {
    for (int64_t block = 0; block < n_cuts(); block++) {
        struct texts t;
        make_texts(&t);
        struct mal_cut *cut = begin(&t, block);
        float *states = moved_states(cut);
        struct found f = measure(cut, all_of_them, N_TEXTS, states);
        for (int64_t i = 0; i < N_TEXTS * model->info.n_channels; i += 9) {
            float h = 0.015625f, x = states[i];
            states[i] = x + h;
            double above = loss_at(cut, states);
            states[i] = x - h;
            double below = loss_at(cut, states);
            states[i] = x;
            double slope = (above - below) / (2 * (double)h), got = (double)f.grads[i];
            if (fabs(slope - got) <= 4e-3 * (1 + fabs(slope))) continue;
            fail_msg("block %lld, element %lld: gradient %g, by differences %g",
                     (long long)block, (long long)i, got, slope);
        }
        mal_free(f.grads);
        mal_free(states);
        mal_cut_destroy(cut);
    }
}

/* KL(now || before), from the logits of a model whose row was moved by its bias: all rows
 * of the text are, so that it is a text of one token. */
static void test_divergence(void **state) {
    for (int64_t block = 0; block < n_cuts(); block++) {
        static float before[512], now[512], moved[128];
        struct mal_linear *down = &model->decoder.blocks[block].mlp.down;
        int64_t c = model->info.n_channels, v = model->info.n_outputs;
        struct mal_error err = {0};
        struct texts t;
        if (!down->bias) continue;
        make_texts(&t);
        struct mal_cut *cut = begin(&t, block);
        float *bias = random_floats(c, 0.3f, 7),
              *own = mal_calloc((size_t)c, sizeof *own);
        assert_non_null(own);
        from_device(own, down->bias, c);
        size_t which = 4;
        for (int64_t k = 0; k < c; k++)
            moved[k] = mal_cut_states(cut)[(int64_t)which * c + k] + bias[k] - own[k];
        struct found f = measure(cut, &which, 1, moved);
        const float *kept = down->bias;
        assert_ok(mal_model_logits(model, NULL, 0, t.ids[which], 1, before, &err), &err);
        down->bias = on_device(bias, c);
        assert_ok(mal_model_logits(model, NULL, 0, t.ids[which], 1, now, &err), &err);
        free_device(down->bias);
        down->bias = kept;
        double p_sum = 0, q_sum = 0, want = 0;
        for (int64_t k = 0; k < v; k++) {
            p_sum += exp((double)before[k]);
            q_sum += exp((double)now[k]);
        }
        for (int64_t k = 0; k < v; k++) {
            double log_p = (double)before[k] - log(p_sum),
                   log_q = (double)now[k] - log(q_sum);
            want += exp(log_q) * (log_q - log_p);
        }
        assert_true(want > 1e-3);
        assert_true(fabs(f.losses[0] - want) <= 1e-5 * (1 + want));
        mal_free(bias);
        mal_free(own);
        mal_free(f.grads);
        mal_cut_destroy(cut);
    }
}

/* Each by itself, in another order, again: the same numbers. */
static void test_alone(void **state) {
    for (int64_t block = 0; block < n_cuts(); block++) {
        int64_t c = model->info.n_channels;
        struct texts t;
        make_texts(&t);
        struct mal_cut *cut = begin(&t, block);
        float *states = moved_states(cut),
              *few = mal_calloc((size_t)(2 * c), sizeof *few);
        assert_non_null(few);
        struct found f = measure(cut, all_of_them, N_TEXTS, states);
        for (size_t i = 0; i < N_TEXTS; i++) {
            size_t which[] = {i, (i + 2) % N_TEXTS};
            for (size_t k = 0; k < 2; k++)
                memcpy(few + (int64_t)k * c, states + (int64_t)which[k] * c,
                       (size_t)c * sizeof *few);
            struct found two = measure(cut, which, 2, few);
            for (size_t k = 0; k < 2; k++) {
                double want = f.losses[which[k]];
                assert_true(fabs(two.losses[k] - want) <= 2e-6 * (1 + want));
                check_near("gradient alone", which[k], two.grads + (int64_t)k * c,
                           f.grads + (int64_t)which[k] * c, c, 2e-5);
            }
            mal_free(two.grads);
        }
        mal_free(few);
        mal_free(states);
        mal_free(f.grads);
        mal_cut_destroy(cut);
    }
}

/* Never more than is said beforehand, and not less. */
static void test_bytes(void **state) {
    for (int64_t block = 0; block < n_cuts(); block++) {
        struct texts t;
        make_texts(&t);
        size_t before = mal_backend_bytes(model->be) - model->scratch.capacity;
        struct mal_cut *cut = begin(&t, block);
        struct mal_cut_bytes said = mal_cut_bytes(model, block, t.all, N_TEXTS);
        size_t taken = mal_backend_bytes(model->be) - model->scratch.capacity - before;
        assert_in_range(taken, said.kept, said.kept + 128);
        mal_model_drop_scratch(model);
        struct found f = measure(cut, all_of_them, N_TEXTS, mal_cut_states(cut));
        assert_int_equal(model->scratch.capacity, said.pass);
        mal_free(f.grads);
        mal_cut_destroy(cut);
    }
}

int main(void) {
    const struct model_test tests[] = {
        {"unmoved", test_unmoved},       {"gradients", test_gradients},
        {"divergence", test_divergence}, {"alone", test_alone},
        {"bytes", test_bytes},
    };
    return run_each("cut", tests, sizeof tests / sizeof *tests);
}
