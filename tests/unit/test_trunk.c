/* test_trunk.c - states that passes leave below the lowest edited block, and begin with:
 * what follows is the same, bit for bit, whatever the weights above have become. */
#include "learning.h"

#include "core/eval.h"
#include "core/trunk.h"

/* What passes over a batch say. */
struct said {
    float *logits;
    struct values u, g, dw[2];
    double loss[3];
};

static float *rows_on_device(size_t m, int64_t rows, bool keys) {
    const struct mal_linear *lin = model->edits[m];
    int64_t n = rows * (keys ? lin->d_in : lin->d_out);
    float *zeros = mal_calloc((size_t)n, sizeof *zeros), *out = on_device(zeros, n);
    mal_free(zeros);
    return out;
}

static void measure(const struct made_batch *b, struct said *s) {
    float *u[MAX_EDITS], *g[MAX_EDITS];
    struct mal_error err = {0};
    s->u.n = s->g.n = model->n_edits;
    for (size_t m = 0; m < model->n_edits; m++) {
        u[m] = rows_on_device(m, n_rows(b, m), true);
        g[m] = rows_on_device(m, n_rows(b, m), false);
    }
    struct mal_measure what = {.loss_scale = 1, .u = u, .g = g, .loss = &s->loss[2]};
    assert_ok(mal_model_measure(model, &b->batch, &what, &err), &err);
    for (size_t m = 0; m < model->n_edits; m++) {
        s->u.at[m] = taken(u[m], n_rows(b, m) * model->edits[m]->d_in);
        s->g.at[m] = taken(g[m], n_rows(b, m) * model->edits[m]->d_out);
    }
}

static struct said listen(const struct made_batch *b) {
    struct said s = {.logits = row_logits(b, false)};
    measure(b, &s);
    for (int keep = 0; keep < 2; keep++)
        s.dw[keep] = learn(b, keep, &s.loss[keep]);
    return s;
}

static void said_free(struct said *s) {
    mal_free(s->logits);
    values_free(&s->u);
    values_free(&s->g);
    values_free(&s->dw[0]);
    values_free(&s->dw[1]);
}

static void check_same(const char *when, const struct made_batch *b, const struct said *a,
                       const struct said *s) {
    size_t n = (size_t)(b->rows * model->info.n_outputs);
    if (memcmp(a->logits, s->logits, n * sizeof(float)) != 0)
        fail_msg("%s: other logits", when);
    for (size_t m = 0; m < model->n_edits; m++) {
        const struct mal_linear *lin = model->edits[m];
        size_t rows = (size_t)n_rows(b, m) * sizeof(float);
        if (memcmp(a->u.at[m], s->u.at[m], rows * (size_t)lin->d_in) != 0 ||
            memcmp(a->g.at[m], s->g.at[m], rows * (size_t)lin->d_out) != 0)
            fail_msg("%s: other rows of %s", when, lin->name);
        for (int keep = 0; keep < 2; keep++) {
            if (memcmp(a->dw[keep].at[m], s->dw[keep].at[m],
                       (size_t)size_of(m) * sizeof(float)) != 0)
                fail_msg("%s: another gradient of %s", when, lin->name);
        }
    }
    assert_memory_equal(a->loss, s->loss, sizeof a->loss);
}

/* ---- Passes ---- */

static void replace_ids(struct made_batch *b) {
    for (int64_t i = 0; i < b->tokens; i++)
        b->ids[i] = 0;
    for (int64_t i = 0; i < b->sources; i++)
        b->source[i] = 0;
}

/* Left by a pass and begun with, on other weights too; by other ids than the states are
 * of nothing changes, as no block below is run, nor are tokens embedded. */
static void check_first(int64_t first, const struct sequences *seqs) {
    struct made_batch *b = make_batch(seqs, true);
    struct values w = edit("", first, 0.2f), direction = values_of(71, 0.1f);
    const int32_t *start = mal_model_trunk_start(model, &b->batch);
    bool in_source = is_seq2seq() && first < model->decoder.first;
    assert_true((start != NULL) == (first > 0 && (!is_seq2seq() || in_source)));
    if (start) {
        int64_t n = start[b->batch.n_seqs] * model->info.n_channels;
        float *zeros = mal_calloc((size_t)n, sizeof *zeros);
        struct said plain = listen(b);
        b->batch.trunk = on_device(zeros, n);
        mal_free(row_logits(b, false)); /* leaves them */
        float *left = mal_malloc((size_t)n * sizeof *left);
        from_device(left, b->batch.trunk, n);
        float *alone = mal_malloc((size_t)n * sizeof *alone);
        struct mal_error err = {0};
        mal_backend_upload(model->be, b->batch.trunk, zeros, (size_t)n * sizeof *zeros);
        assert_ok(mal_model_trunk(model, &b->batch, &err), &err);
        from_device(alone, b->batch.trunk, n);
        assert_memory_equal(alone, left, (size_t)n * sizeof *left);
        mal_free(alone);
        struct said leaving = listen(b);
        check_same("leaving", b, &plain, &leaving);
        b->batch.trunk_known = true;
        struct said known = listen(b);
        check_same("known", b, &plain, &known);
        said_free(&plain);
        said_free(&leaving);
        said_free(&known);

        b->batch.trunk_known = false;
        move(&w, &direction, 1);
        plain = listen(b);
        b->batch.trunk_known = true;
        if (!in_source) replace_ids(b); /* a decoder's ids still count */
        known = listen(b);
        check_same("on other weights", b, &plain, &known);
        from_device(zeros, b->batch.trunk, n);
        assert_memory_equal(zeros, left, (size_t)n * sizeof *left);
        said_free(&plain);
        said_free(&known);
        mal_free(left);
        mal_free(zeros);
        free_device(b->batch.trunk);
    }
    values_free(&direction);
    no_edits(&w);
    mal_free(b);
}

static void test_passes(void **state) {
    for (int64_t first = 0; first < model->info.n_layers; first++)
        check_first(first, all_sequences[first % 3]);
}

/* ---- Texts ---- */

enum { N_TEXTS = 6 };

static void make_texts(struct mal_example texts[N_TEXTS]) {
    uint64_t seed = 5;
    memset(texts, 0, N_TEXTS * sizeof *texts);
    for (int32_t i = 0; i < N_TEXTS; i++) {
        struct mal_example *e = &texts[i];
        e->n = 3 + i;
        e->n_target = is_classifier() ? 1 : 2;
        e->from = is_classifier() || is_seq2seq() ? 0 : e->n - 2;
        e->has_decoder = is_seq2seq();
        e->ids = mal_malloc((size_t)e->n * sizeof *e->ids);
        e->target = mal_malloc(2 * sizeof *e->target);
        for (int32_t k = 0; k < e->n; k++)
            e->ids[k] = random_id(&seed, model->info.n_vocab);
        for (int32_t k = 0; k < 2; k++)
            e->target[k] = random_id(&seed, model->info.n_outputs);
    }
}

static struct mal_score *scores_of(struct mal_trunk *trunk,
                                   const struct mal_example *texts, size_t n) {
    struct mal_error err = {0};
    struct mal_score *scores = mal_calloc(n, sizeof *scores);
    assert_ok(mal_score_examples(model, trunk, texts, n, NULL, NULL, scores, &err), &err);
    return scores;
}

/* Of slices that are packed otherwise a product may round otherwise. */
static void check_scores(struct mal_trunk *trunk, const struct mal_example *texts,
                         size_t n, double tolerance) {
    struct mal_score *got = scores_of(trunk, texts, n), *want = scores_of(NULL, texts, n);
    for (size_t i = 0; i < n; i++) {
        double off = fabs(got[i].logprob - want[i].logprob);
        if (!(off <= tolerance)) fail_msg("text %zu: %.3g off", i, off);
    }
    mal_scores_free(got, n);
    mal_scores_free(want, n);
}

/* All texts, some, others first: kept once, and right whenever they are taken up. */
static void test_texts(void **state) {
    int64_t first = is_seq2seq() ? 1 : model->info.n_layers - 1;
    struct values w = edit("", first, 0.2f), direction = values_of(72, 0.1f);
    struct mal_example texts[N_TEXTS];
    struct mal_trunk *trunk;
    struct mal_error err = {0};
    size_t state_bytes = (size_t)model->info.n_channels * sizeof(float), all = 0;
    make_texts(texts);
    for (int32_t i = 0; i < N_TEXTS; i++)
        all += (size_t)texts[i].n * state_bytes;
    if (first == 0 || (is_seq2seq() && first >= model->decoder.first))
        all = state_bytes = 0; /* nothing is to be kept */
    assert_ok(mal_trunk_create(&trunk, model, &err), &err);
    check_scores(trunk, texts + 2, 2, 0);
    assert_int_equal(mal_trunk_bytes(trunk), 11 * state_bytes);
    move(&w, &direction, 1);
    check_scores(trunk, texts + 2, 2, 0);
    assert_int_equal(mal_trunk_bytes(trunk), 11 * state_bytes);
    check_scores(trunk, texts, N_TEXTS, 0);
    move(&w, &direction, -1);
    assert_int_equal(mal_trunk_bytes(trunk), all + 11 * state_bytes);
    struct mal_example turned[] = {texts[5], texts[2], texts[0]};
    check_scores(trunk, turned, 3, 1e-5);
    assert_int_equal(mal_trunk_bytes(trunk), all + 11 * state_bytes);
    mal_trunk_destroy(trunk);
    for (size_t i = 0; i < N_TEXTS; i++)
        mal_example_finish(&texts[i]);
    values_free(&direction);
    no_edits(&w);
}

/* Where the trunk of the model as it is edited ends. */
static bool keeps_anything(int64_t first) {
    return first > 0 && (!is_seq2seq() || first < model->decoder.first);
}

/* Asks for more device memory than there is. */
static void run_short(void) {
    struct mal_backend *be = test_backend();
    if (!mal_backend_on_host(be)) assert_null(mal_backend_alloc(be, SIZE_MAX / 4));
}

/* Device memory is short: nothing is kept there any more, and is kept again after the
 * next pass. A second trunk is not asked, and keeps its states on the host. */
static void test_shortage(void **state) {
    int64_t first = is_seq2seq() ? 1 : model->info.n_layers - 1;
    struct values w = edit("", first, 0.2f);
    struct mal_example texts[N_TEXTS];
    struct mal_trunk *trunk, *second;
    struct mal_error err = {0};
    struct mal_backend *be = test_backend();
    make_texts(texts);
    assert_ok(mal_trunk_create(&trunk, model, &err), &err);
    assert_ok(mal_trunk_create(&second, model, &err), &err);
    check_scores(trunk, texts, N_TEXTS, 0);
    check_scores(second, texts, N_TEXTS, 0);
    size_t all = mal_trunk_bytes(trunk);
    assert_true((all > 0) == keeps_anything(first));
    assert_int_equal(mal_trunk_bytes(second), all);
    run_short();
    assert_int_equal(mal_trunk_bytes(trunk), mal_backend_on_host(be) ? all : 0);
    assert_int_equal(mal_trunk_bytes(second), all);
    check_scores(trunk, texts + 1, 3, 1e-5);
    check_scores(trunk, texts, N_TEXTS, 0); /* some of them known */
    check_scores(trunk, texts, N_TEXTS, 0);
    mal_trunk_destroy(trunk);
    run_short();
    check_scores(second, texts, N_TEXTS, 0);
    mal_trunk_destroy(second);
    for (size_t i = 0; i < N_TEXTS; i++)
        mal_example_finish(&texts[i]);
    no_edits(&w);
}

/* Some texts on the device, others on the host, in one batch: the device has room for
 * the pass, and little besides. */
static void test_both_memories(void **state) {
    enum { LITTLE = 2048 };

    int64_t first = is_seq2seq() ? 1 : model->info.n_layers - 1;
    struct mal_backend *be = test_backend();
    struct values w = edit("", first, 0.2f);
    struct mal_example texts[N_TEXTS];
    struct mal_trunk *trunk;
    struct mal_error err = {0};
    make_texts(texts);
    size_t rows = (size_t)(texts[3].n + texts[4].n + texts[5].n);
    check_scores(NULL, texts, N_TEXTS, 0); /* takes what passes need */
    assert_ok(mal_trunk_create(&trunk, model, &err), &err);
    check_scores(trunk, texts, 3, 0);
    size_t some = mal_trunk_bytes(trunk);
    void *rest = mal_backend_alloc(be, mal_backend_available(be) - LITTLE -
                                           2 * rows * (size_t)model->info.n_channels *
                                               sizeof(float));
    assert_non_null(rest);
    check_scores(trunk, texts + 3, 3, 0);
    assert_true(mal_trunk_bytes(trunk) > some || !keeps_anything(first));
    mal_backend_free(be, rest);
    struct mal_example turned[] = {texts[5], texts[2], texts[0], texts[3]};
    check_scores(trunk, turned, 4, 1e-5);
    run_short(); /* what is on the host stays */
    assert_true(mal_trunk_bytes(trunk) > 0 || !keeps_anything(first));
    mal_trunk_destroy(trunk);
    for (size_t i = 0; i < N_TEXTS; i++)
        mal_example_finish(&texts[i]);
    no_edits(&w);
}

static bool is_played(void) {
    return strstr(mal_backend_describe(test_backend()), "playing a CUDA device");
}

/* Whatever allocation fails: an error, or nothing is kept, and the scores are right. A
 * device that is played is slow: a quarter of them for each model, not the same. */
static void test_no_memory(void **state) {
    long apart = is_played() ? 4 : 1;
    struct values w = edit("", model->info.n_layers - 1, 0.2f);
    struct mal_example texts[N_TEXTS];
    make_texts(texts);
    bool over = false;
    for (long n = 1 + (long)*(const size_t *)*state % apart; !over; n += apart) {
        struct mal_error err = {0};
        struct mal_trunk *trunk = NULL;
        struct mal_score scores[N_TEXTS] = {0};
        mal_alloc_fail_at(n);
        bool ok = mal_trunk_create(&trunk, model, &err);
        for (int i = 0; ok && i < 2; i++) {
            ok = mal_score_examples(model, trunk, texts, N_TEXTS, NULL, NULL, scores,
                                    &err);
            for (size_t k = 0; k < N_TEXTS; k++) {
                mal_free(scores[k].tokens);
                scores[k] = (struct mal_score){0};
            }
        }
        mal_alloc_fail_at(0);
        if (ok) check_scores(trunk, texts, N_TEXTS, 0);
        assert_true(ok || err.status == MAL_NO_MEMORY);
        over = ok && n > 60;
        mal_trunk_destroy(trunk);
    }
    for (size_t i = 0; i < N_TEXTS; i++)
        mal_example_finish(&texts[i]);
    no_edits(&w);
}

/* The last one where a device is played: on a GPU it would take the memory of tests
 * beside it. */
static const struct model_test tests[] = {{"passes", test_passes},
                                          {"texts", test_texts},
                                          {"shortage", test_shortage},
                                          {"no memory", test_no_memory},
                                          {"both memories", test_both_memories}};

int main(void) {
    return run_each("trunk", tests, sizeof tests / sizeof *tests - (is_played() ? 0 : 1));
}
