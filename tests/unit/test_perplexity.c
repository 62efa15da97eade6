/* test_perplexity.c - the mean of -log p of texts, against all logits of each text, on
 * every architecture. */
#include "each_model.h"
#include "no_memory.h"

#include "core/editor/perplexity.h"

enum { N_TEXTS = 300, LONGEST = 12, ALL = 1 << 20 };

struct texts {
    struct mal_preserve_texts texts;
    int32_t ids[N_TEXTS * LONGEST], start[N_TEXTS + 1], from[N_TEXTS];
};

/* An encoder has something to read, and so has a decoder. */
static void make_texts(struct texts *t, size_t n, int32_t shortest, int32_t longest) {
    uint64_t seed = 5;
    memset(t, 0, sizeof *t);
    for (size_t i = 0; i < n; i++) {
        int32_t length = shortest + random_id(&seed, longest - shortest + 1);
        int32_t least = is_seq2seq() ? 1 : 0;
        for (int32_t k = 0; k < length; k++)
            t->ids[t->start[i] + k] = random_id(&seed, model->info.n_vocab);
        t->start[i + 1] = t->start[i] + length;
        t->from[i] = least + random_id(&seed, length - least);
    }
    t->texts = (struct mal_preserve_texts){n, t->ids, t->start, t->from};
}

static double log_sum_exp(const float *x, int64_t v) {
    double sum = 0;
    for (int64_t j = 0; j < v; j++)
        sum += exp((double)x[j]);
    return log(sum);
}

/* -log p of the tokens after position from[i] of text i, into out; how many. */
static size_t naive(const struct texts *t, size_t i, double *out) {
    struct mal_error err = {0};
    const int32_t *text = t->ids + t->start[i];
    int32_t length = t->start[i + 1] - t->start[i], skip = is_seq2seq() ? t->from[i] : 0;
    int64_t v = model->info.n_outputs;
    float *logits = mal_malloc((size_t)(length * v) * sizeof *logits);
    assert_non_null(logits);
    assert_ok(mal_model_logits(model, text, (size_t)skip, text + skip,
                               (size_t)(length - skip), logits, &err),
              &err);
    size_t n = 0;
    for (int32_t p = t->from[i]; p + 1 < length; p++) {
        const float *row = logits + (p - skip) * v;
        out[n++] = log_sum_exp(row, v) - (double)row[text[p + 1]];
    }
    mal_free(logits);
    return n;
}

static double naive_mean(const struct texts *t) {
    double sum = 0, at[LONGEST];
    size_t n = 0;
    for (size_t i = 0; i < t->texts.n; i++) {
        size_t k = naive(t, i, at);
        n += k;
        for (size_t j = 0; j < k; j++)
            sum += at[j];
    }
    return sum / (double)n;
}

static bool count_tick(void *arg) {
    return ++*(int *)arg != 3;
}

static double measure(const struct texts *t, int64_t max_tokens, int *ticks) {
    struct mal_error err = {0};
    double out = -1;
    assert_ok(mal_perplexity_measure(model, &t->texts, max_tokens,
                                     ticks ? count_tick : NULL, ticks, &out, &err),
              &err);
    return out;
}

static void expect_near(double got, double want) {
    if (!(fabs(got - want) <= 1e-5)) fail_msg("%.9g, not %.9g", got, want);
}

/* ---- Values ---- */

/* As many as a CPU has in two slices; on a device a text alone, as naive() asks, takes as
 * long as many. */
static size_t n_texts(void) {
    return mal_backend_on_host(model->be) ? N_TEXTS : 40;
}

/* Of all tokens but the last ones. */
static int slices_of(const struct texts *t) {
    int64_t tokens = t->start[t->texts.n] - (int64_t)t->texts.n;
    return (int)(tokens / (1024 * mal_backend_breadth(model->be))) + 1;
}

static void test_value(void **state) {
    static struct texts t;
    make_texts(&t, n_texts(), 2, LONGEST);
    if (is_classifier()) {
        assert_true(isnan(measure(&t, ALL, NULL)));
        return;
    }
    int ticks = 0;
    double base = naive_mean(&t);
    expect_near(measure(&t, ALL, &ticks), base);
    assert_int_equal(ticks, slices_of(&t));
    if (t.texts.n == N_TEXTS) assert_int_equal(ticks, 2);

    struct values w = edit("", 0, 0.2f);
    double edited = naive_mean(&t);
    assert_true(fabs(edited - base) > 1e-3);
    expect_near(measure(&t, ALL, NULL), edited);
    no_edits(&w);
}

/* Of texts that foretell one token each, those of the first so many are known by their
 * differences: each is taken once, and not in the order of the file. */
static void test_sample(void **state) {
    enum { N = 12 };
    static struct texts t;
    if (is_classifier()) return;
    make_texts(&t, N, 4, 6);
    double at[N], one[LONGEST], before = 0;
    bool taken[N] = {false};
    size_t displaced = 0;
    for (size_t i = 0; i < N; i++) {
        t.from[i] = t.start[i + 1] - t.start[i] - 2;
        assert_int_equal(naive(&t, i, one), 1);
        at[i] = one[0];
    }
    for (size_t n = 1; n <= N; n++) {
        double sum = measure(&t, (int64_t)n, NULL) * (double)n;
        size_t i = 0;
        while (i < N && (taken[i] || fabs(sum - before - at[i]) > 1e-4))
            i++;
        if (i == N && n < N) fail_msg("token %zu is none of the texts'", n);
        if (i < N) taken[i] = true;
        displaced += i + 1 != n;
        before = sum;
    }
    assert_true(displaced > N / 2);
    expect_near(before / N, naive_mean(&t));
}

/* The last text that is taken is cut, so that there are as many tokens as were wanted. */
static void test_cut(void **state) {
    static struct texts t;
    double at[LONGEST];
    if (is_classifier()) return;
    make_texts(&t, 1, 10, 10);
    t.from[0] = 2;
    assert_int_equal(naive(&t, 0, at), 7);
    expect_near(measure(&t, 3, NULL), (at[0] + at[1] + at[2]) / 3);
    expect_near(measure(&t, 7, NULL), naive_mean(&t));
    assert_true(measure(&t, 3, NULL) == measure(&t, 3, NULL));
}

/* ---- Nothing to measure, or not ---- */

static void test_nothing(void **state) {
    static struct texts t;
    make_texts(&t, 3, 3, 5);
    for (size_t i = 0; i < 3; i++)
        t.from[i] = t.start[i + 1] - t.start[i] - 1;
    assert_true(isnan(measure(&t, ALL, NULL)));
    t.texts = (struct mal_preserve_texts){0};
    assert_true(isnan(measure(&t, ALL, NULL)));
}

static void test_errors(void **state) {
    static struct texts t;
    struct mal_error err = {0};
    double out = -1;
    int ticks = 2;
    if (is_classifier()) return;
    make_texts(&t, 4, 6, 8);
    for (size_t i = 0; i < 4; i++)
        t.from[i] = 2;
    assert_false(
        mal_perplexity_measure(model, &t.texts, ALL, count_tick, &ticks, &out, &err));
    assert_error(&err, MAL_CANCELLED, "cancelled");
    t.ids[t.start[1]] = 1 << 20;
    assert_false(mal_perplexity_measure(model, &t.texts, ALL, NULL, NULL, &out, &err));
    assert_error(&err, MAL_INVALID, "texts to preserve, from 0 on: sequence 1");
    t.ids[t.start[1]] = 0;

    struct values w = edit("", 0, 0.2f);
    struct values nan = values_of(1, NAN);
    move(&w, &nan, 1);
    assert_false(mal_perplexity_measure(model, &t.texts, ALL, NULL, NULL, &out, &err));
    assert_error(&err, MAL_NUMERIC, "the model's output is not finite");
    assert_true(out == -1);
    values_free(&nan);
    no_edits(&w);
}

static bool measure_once(const char *path, struct mal_error *err) {
    static struct texts t;
    double out;
    make_texts(&t, 4, 6, 8);
    return mal_perplexity_measure(model, &t.texts, 2, NULL, NULL, &out, err);
}

static void test_no_memory(void **state) {
    if (!is_classifier()) fail_each_allocation(measure_once, "", 3);
}

int main(void) {
    const struct model_test tests[] = {
        {"value", test_value},     {"sample", test_sample}, {"cut", test_cut},
        {"nothing", test_nothing}, {"errors", test_errors}, {"no_memory", test_no_memory},
    };
    return run_each("perplexity", tests, sizeof tests / sizeof *tests);
}
