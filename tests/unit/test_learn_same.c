/* test_learn_same.c - what must hold of a training loss's gradients however a batch is
 * packed and cut, and what learning leaves behind. */
#include "learning.h"

static void test_packing(void **state) {
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit("", 0, 0.2f);
    for (int keep = 0; keep < 2; keep++) {
        double loss, sum = 0;
        struct values together = learn(b, keep, &loss), added = values_of(0, 0);
        for (size_t s = 0; s < b->batch.n_seqs; s++) {
            double alone;
            struct made_batch *part = only(b, s);
            struct values dw = learn_from(part, keep, 1, &added, &alone);
            sum += alone;
            values_free(&added);
            added = dw;
            mal_free(part);
        }
        assert_true(fabs(loss - sum) <= 1e-6 * loss);
        for (size_t m = 0; m < w.n; m++)
            check_equal("one by one", m, added.at[m], together.at[m], 3e-6);
        values_free(&together);
        values_free(&added);
    }
    no_edits(&w);
    mal_free(b);
}

/* dw is added to, loss_scale scales what is added and not the loss; weights in use and
 * base weights are as before, bit for bit and where they were. */
static void test_what_is_left(void **state) {
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit("", model->info.n_layers > 1, 0.2f), before = values_of(31, 1);
    const void *in_use[MAX_EDITS], *base[MAX_EDITS];
    struct values base_before = values_of(0, 0), after = values_of(0, 0);
    for (size_t m = 0; m < w.n; m++) {
        in_use[m] = model->edits[m]->w;
        base[m] = model->edits[m]->w0;
        from_device(base_before.at[m], base[m], size_of(m));
    }
    for (int keep = 0; keep < 2; keep++) {
        double loss, scaled_loss;
        struct values plain = learn(b, keep, &loss);
        struct values added = learn_from(b, keep, -2.5f, &before, &scaled_loss);
        assert_true(loss == scaled_loss && loss > 0);
        for (size_t m = 0; m < w.n; m++) {
            for (int64_t i = 0; i < size_of(m); i++)
                plain.at[m][i] = before.at[m][i] - 2.5f * plain.at[m][i];
            check_equal("scaled and added", m, added.at[m], plain.at[m], 1e-6);
            assert_ptr_equal(model->edits[m]->w, in_use[m]);
            assert_ptr_equal(model->edits[m]->w0, base[m]);
            size_t bytes = (size_t)size_of(m) * sizeof(float);
            from_device(after.at[m], in_use[m], size_of(m));
            for (int64_t j = 0; j < size_of(m); j++)
                assert_true(after.at[m][stored_at(m, j)] == w.at[m][j]);
            from_device(after.at[m], base[m], size_of(m));
            assert_memory_equal(after.at[m], base_before.at[m], bytes);
        }
        values_free(&plain);
        values_free(&added);
    }
    values_free(&before);
    values_free(&base_before);
    values_free(&after);
    no_edits(&w);
    mal_free(b);
}

/* Weights that are the base's diverge by nothing at all. */
static void test_keep_of_the_base(void **state) {
    struct made_batch *b = make_batch(&mixed, true);
    for (int copied = 0; copied < 2; copied++) {
        struct values w = edit("", 0, 0);
        const void *in_use[MAX_EDITS];
        for (size_t m = 0; m < w.n; m++) {
            in_use[m] = model->edits[m]->w;
            if (!copied) model->edits[m]->w = model->edits[m]->w0;
        }
        double loss = -1;
        struct values dw = learn(b, true, &loss);
        assert_true(loss == 0);
        assert_true(values_dot(&dw, &dw) == 0);
        for (size_t m = 0; m < w.n; m++)
            model->edits[m]->w = in_use[m];
        values_free(&dw);
        no_edits(&w);
    }
    mal_free(b);
}

static void test_head_slices(void **state) {
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit("", 0, 0.2f);
    int64_t before = model->head_bytes,
            row = model->info.n_outputs * (int64_t)sizeof(float);
    const int64_t slices[] = {1, 2, 5, b->rows - 1};
    for (int keep = 0; keep < 2; keep++) {
        double loss, sliced_loss;
        struct values all = learn(b, keep, &loss);
        for (size_t i = 0; i < sizeof slices / sizeof *slices; i++) {
            model->head_bytes = slices[i] * row;
            struct values dw = learn(b, keep, &sliced_loss);
            model->head_bytes = before;
            /* a device may have another kernel for slices of another size */
            double most = mal_backend_on_host(test_backend()) ? 1e-6 : 5e-6;
            assert_true(fabs(loss - sliced_loss) <= most * loss);
            for (size_t m = 0; m < w.n; m++)
                check_equal("in slices", m, dw.at[m], all.at[m], 3e-6);
            values_free(&dw);
        }
        values_free(&all);
    }
    no_edits(&w);
    mal_free(b);
}

/* Whatever allocation fails, the error says so and the weights in use stay. */
static void test_no_memory(void **state) {
    struct made_batch *b = make_batch(&mixed, true);
    struct values w = edit("", 0, 0.2f);
    float *dw[MAX_EDITS];
    const void *in_use[MAX_EDITS];
    for (size_t m = 0; m < w.n; m++) {
        dw[m] = on_device(w.at[m], size_of(m));
        in_use[m] = model->edits[m]->w;
    }
    const struct mal_learn wanted = {.keep = true, .loss_scale = 1, .dw = dw};
    bool ok = false;
    long n = 0;
    while (!ok && n < 100) {
        struct mal_error err = {0};
        mal_model_drop_scratch(model);
        mal_alloc_fail_at(++n);
        ok = mal_model_learn(model, &b->batch, &wanted, &err);
        mal_alloc_fail_at(0);
        assert_int_equal(err.status, ok ? MAL_OK : MAL_NO_MEMORY);
        for (size_t m = 0; m < w.n; m++)
            assert_ptr_equal(model->edits[m]->w, in_use[m]);
    }
    /* allocations of a device's own memory have no turn */
    assert_true(ok && n > (mal_backend_on_host(model->be) ? 3 : 1));
    for (size_t m = 0; m < w.n; m++)
        free_device(dw[m]);
    no_edits(&w);
    mal_free(b);
}

int main(void) {
    const struct model_test tests[] = {
        {"packing", test_packing},
        {"what is left", test_what_is_left},
        {"keep of the base", test_keep_of_the_base},
        {"head slices", test_head_slices},
        {"no memory", test_no_memory},
    };
    return run_each("learn_same", tests, sizeof tests / sizeof *tests);
}
