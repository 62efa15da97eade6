/* test_pass_bytes.c - device memory of passes against what is said beforehand: never
 * more, and not far less. */
#include "learning.h"

/* An encoder-decoder's have labels at all rows. */
static const struct sequences *sequences_of(size_t i) {
    static const struct sequences all[] = {
        {5, {7, 9, 5, 1, 6}, {0}}, {3, {4, 6, 3}, {0}}, {2, {1, 1}, {0}}};
    return is_seq2seq() ? &all[i] : all_sequences[i];
}

static int64_t rows_of(const struct made_batch *b, const struct mal_linear *lin,
                       bool all) {
    if (lin->of_source) return b->sources;
    return all ? b->tokens : b->rows;
}

static void measure(const struct made_batch *b, bool all) {
    float *u[MAX_EDITS], *g[MAX_EDITS];
    struct mal_error err = {0};
    for (size_t m = 0; m < model->n_edits; m++) {
        int64_t n = rows_of(b, model->edits[m], all);
        u[m] = on_device(NULL, n * model->edits[m]->d_in);
        g[m] = on_device(NULL, n * model->edits[m]->d_out);
    }
    struct mal_measure wanted = {.loss_scale = 1, .all_tokens = all, .u = u, .g = g};
    assert_ok(mal_model_measure(model, &b->batch, &wanted, &err), &err);
    for (size_t m = 0; m < model->n_edits; m++) {
        free_device(u[m]);
        free_device(g[m]);
    }
}

/* Held by the model's passes, from none on. */
static size_t held(void) {
    return model->scratch.capacity;
}

static void check_said(const char *what, size_t said) {
    size_t taken = held();
    mal_model_drop_scratch(model);
    if (taken <= said && said <= 2 * taken) return;
    fail_msg("%s: took %zu bytes, said %zu", what, taken, said);
}

static void check_passes(const struct made_batch *b) {
    int64_t seqs = (int64_t)b->batch.n_seqs, n = is_seq2seq() ? b->sources : b->tokens;
    struct mal_error err = {0};
    mal_model_drop_scratch(model);
    assert_ok(mal_model_score(model, &b->batch, &(struct mal_row_scores){0}, &err), &err);
    check_said("score",
               mal_model_scratch_bytes(model, seqs, n, b->longest, b->rows, false));
    measure(b, false);
    check_said("measure",
               mal_model_scratch_bytes(model, seqs, n, b->longest, b->rows, true));
    if (model->info.kind == MAL_MODEL_CAUSAL) {
        measure(b, true);
        check_said("measure all tokens",
                   mal_model_scratch_bytes(model, seqs, n, b->longest, n, true));
    }
    size_t said = mal_model_learn_bytes(model, seqs, n, b->longest, b->rows);
    struct values dw = learn(b, false, NULL);
    values_free(&dw);
    assert_true(held() <= said);
    dw = learn(b, true, NULL);
    values_free(&dw);
    assert_int_equal(held(), said);
    mal_model_drop_scratch(model);
}

static void test_bytes(void **state) {
    for (size_t i = 0; i < 3; i++) {
        struct made_batch *b = make_batch(sequences_of(i), true);
        for (int64_t first = 0; first < model->info.n_layers; first++) {
            struct values w = edit("", first, 0.2f);
            check_passes(b);
            no_edits(&w);
        }
        mal_free(b);
    }
}

int main(void) {
    const struct model_test tests[] = {
        {"bytes", test_bytes},
    };
    return run_each("pass_bytes", tests, sizeof tests / sizeof *tests);
}
