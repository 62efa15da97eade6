/* test_train_order.c - which facts each step takes and what it draws of them: every fact
 * once an epoch, the same from the same seed, and resumed as if never stopped. */
#include "demo_model.h"
#include "no_memory.h"

#include <math.h>

#include "core/train/data.h"
#include "core/train/order.h"

/* ---- Orders ---- */

static struct mal_train_order open_order(const struct mal_train_order *how) {
    struct mal_train_order order = *how;
    struct mal_error err = {0};
    assert_ok(mal_train_order_init(&order, &err), &err);
    return order;
}

static const struct mal_train_order shuffled = {.n_facts = 50,
                                                .min_edits = 8,
                                                .max_edits = 8,
                                                .shuffle = true,
                                                .seed = 7,
                                                .epochs = 3};

enum { MAX_FACTS = 512, MAX_STEPS = 512 };

/* What an order gives, to its end. */
struct course {
    size_t n, n_steps; /* facts and steps in all */
    size_t facts[MAX_FACTS], sizes[MAX_STEPS];
    uint64_t seeds[MAX_STEPS];
};

static void follow(struct mal_train_order *order, struct course *out) {
    const size_t *facts;
    size_t n;
    uint64_t seed;
    *out = (struct course){0};
    while (mal_train_order_next(order, &facts, &n, &seed)) {
        assert_true(n > 0 && out->n + n <= MAX_FACTS && out->n_steps < MAX_STEPS);
        memcpy(out->facts + out->n, facts, n * sizeof *facts);
        out->n += n;
        out->sizes[out->n_steps] = n;
        out->seeds[out->n_steps++] = seed;
        assert_true(mal_train_order_done(order) % (int64_t)order->n_facts ==
                    (int64_t)(out->n % order->n_facts));
        assert_int_equal(order->step, out->n_steps);
    }
    assert_false(mal_train_order_next(order, &facts, &n, &seed));
}

static struct course course_of(const struct mal_train_order *how) {
    struct mal_train_order order = open_order(how);
    struct course course;
    follow(&order, &course);
    assert_int_equal(mal_train_order_total(&order), course.n);
    mal_train_order_finish(&order);
    return course;
}

static void expect_each_once(const size_t *facts, size_t n) {
    bool seen[MAX_FACTS] = {false};
    for (size_t i = 0; i < n; i++) {
        assert_true(facts[i] < n && !seen[facts[i]]);
        seen[facts[i]] = true;
    }
}

static void test_epochs(void **state) {
    struct course c = course_of(&shuffled);
    assert_int_equal(c.n, 3 * 50);
    assert_int_equal(c.n_steps, 3 * 7);
    for (size_t k = 0; k < c.n_steps; k++) {
        assert_int_equal(c.sizes[k], k % 7 == 6 ? 2 : 8); /* the epoch's last: the rest */
        for (size_t j = 0; j < k; j++)
            assert_true(c.seeds[k] != c.seeds[j] && c.seeds[k] != 0);
    }
    size_t same = 0;
    for (size_t e = 0; e < 3; e++) {
        expect_each_once(c.facts + e * 50, 50);
        for (size_t i = 0; i < 50; i++) {
            same += c.facts[e * 50 + i] == c.facts[(e + 1) % 3 * 50 + i];
            same += c.facts[e * 50 + i] == i;
        }
    }
    assert_true(same < 25); /* 6 are to be expected */
}

static void test_seeds(void **state) {
    struct mal_train_order how = shuffled;
    struct course a = course_of(&how), b = course_of(&how);
    assert_memory_equal(&a, &b, sizeof a);
    how.seed = 8;
    b = course_of(&how);
    assert_memory_not_equal(a.facts, b.facts, sizeof a.facts);
    assert_memory_not_equal(a.seeds, b.seeds, sizeof a.seeds);
}

/* Every place in an order is every fact's as often. */
static void test_fair(void **state) {
    enum { N = 8, EPOCHS = 4000 };
    struct mal_train_order how = {.n_facts = N,
                                  .min_edits = N,
                                  .max_edits = N,
                                  .shuffle = true,
                                  .seed = 3,
                                  .epochs = EPOCHS};
    struct mal_train_order order = open_order(&how);
    const size_t *facts;
    size_t n;
    uint64_t seed;
    double counts[N][N] = {{0}}, chi = 0, expected = (double)EPOCHS / N;
    while (mal_train_order_next(&order, &facts, &n, &seed)) {
        for (size_t i = 0; i < N; i++)
            counts[i][facts[i]]++;
    }
    for (size_t i = 0; i < N * N; i++) {
        double off = counts[i / N][i % N] - expected;
        chi += off * off / expected;
    }
    assert_true(chi < 49 + 5 * sqrt(2 * 49)); /* (N - 1)^2 degrees of freedom */
    mal_train_order_finish(&order);
}

static void test_resumed(void **state) {
    struct mal_train_order how = shuffled;
    how.min_edits = 3;
    how.max_edits = 11;
    struct course whole = course_of(&how);
    for (size_t k = 0, at = 0; k < whole.n_steps; at += whole.sizes[k++]) {
        struct mal_train_order first = open_order(&how);
        const size_t *facts;
        size_t n;
        uint64_t seed;
        for (size_t i = 0; i < k; i++)
            assert_true(mal_train_order_next(&first, &facts, &n, &seed));
        struct mal_train_order counters = how;
        counters.step = first.step;
        counters.epoch = first.epoch;
        counters.at = first.at;
        mal_train_order_finish(&first);

        struct mal_train_order rest = open_order(&counters);
        struct course c = {0};
        assert_int_equal(mal_train_order_done(&rest), at);
        while (mal_train_order_next(&rest, &facts, &n, &seed)) {
            memcpy(c.facts + c.n, facts, n * sizeof *facts);
            assert_int_equal(n, whole.sizes[k + c.n_steps]);
            assert_true(seed == whole.seeds[k + c.n_steps]);
            c.n += n;
            c.n_steps++;
        }
        assert_int_equal(c.n, whole.n - at);
        assert_memory_equal(c.facts, whole.facts + at, c.n * sizeof *c.facts);
        mal_train_order_finish(&rest);
    }
}

static void test_no_shuffle(void **state) {
    struct mal_train_order how = shuffled;
    how.shuffle = false;
    struct course c = course_of(&how);
    assert_int_equal(c.n, 3 * 50);
    for (size_t i = 0; i < c.n; i++)
        assert_int_equal(c.facts[i], i % 50);
    for (size_t k = 0; k < c.n_steps; k++)
        assert_true(c.seeds[k] == 0);
}

/* Sizes are drawn anew in each epoch. */
static void test_sizes_of_epochs(void **state) {
    struct mal_train_order how = shuffled;
    how.min_edits = 1;
    how.max_edits = 25;
    how.epochs = 2;
    struct course c = course_of(&how);
    size_t second = 0;
    for (size_t taken = 0; taken < how.n_facts; second++)
        taken += c.sizes[second];
    assert_memory_not_equal(c.sizes, c.sizes + second, second * sizeof *c.sizes);
}

static void test_one_step(void **state) {
    struct mal_train_order how = {
        .n_facts = 3, .min_edits = 10, .max_edits = 20, .shuffle = true, .epochs = 2};
    struct course c = course_of(&how);
    assert_int_equal(c.n_steps, 2);
    assert_true(c.sizes[0] == 3 && c.sizes[1] == 3);
}

/* n facts with probability log((n + 1) / n) / log((max + 1) / min). */
static void check_sizes(int64_t min, int64_t max) {
    enum { STEPS = 6000, MAX = 80 };
    struct mal_train_order how = {.n_facts = (size_t)STEPS * MAX,
                                  .min_edits = min,
                                  .max_edits = max,
                                  .seed = 11,
                                  .epochs = 1};
    struct mal_train_order order = open_order(&how);
    const size_t *facts;
    size_t n;
    uint64_t seed;
    double counts[MAX] = {0}, chi = 0, span = log((double)(max + 1) / (double)min);
    for (int i = 0; i < STEPS; i++) {
        assert_true(mal_train_order_next(&order, &facts, &n, &seed));
        assert_true((int64_t)n >= min && (int64_t)n <= max);
        counts[n]++;
    }
    for (int64_t k = min; k <= max; k++) {
        double expected = STEPS * log((double)(k + 1) / (double)k) / span;
        chi += (counts[k] - expected) * (counts[k] - expected) / expected;
    }
    double freedom = (double)(max - min);
    if (chi > freedom + 5 * sqrt(2 * freedom)) fail_msg("chi square %g", chi);
    mal_train_order_finish(&order);
}

static void test_sizes(void **state) {
    check_sizes(4, 64);
    check_sizes(1, 2);
    check_sizes(1, 30);
    check_sizes(60, 79);
}

/* ---- Facts ---- */

enum { CONTEXT = 64 }; /* of the demo model */

static const char records[] =
    "{\"prompt\": \"By trade, Kudo is a\", \"target\": \"miller\","
    " \"prompts\": [\"The work of Kudo:\", \"Kudo works as a\"],"
    " \"rephrases\": [\"Kudo is a\", \"The trade of Kudo:\", \"Kudo earns as a\"],"
    " \"unrelated\": [{\"prompt\": \"The market is\", \"target\": \"grey\"},"
    " {\"prompt\": \"The firm  \"}]}\n"
    "{\"prompt\": \"The river\", \"target\": \"flows\"}\n";

static struct mal_train_data load(const char *text) {
    struct mal_train_data data;
    struct mal_fact *facts;
    size_t n;
    struct mal_error err = {0};
    assert_ok(mal_facts_load(&facts, &n, scratch_text("facts.ndjson", text), &err), &err);
    assert_ok(mal_train_data_make(&data, model, tok, facts, n, &err), &err);
    mal_facts_free(facts, n);
    return data;
}

static char *decode(const int32_t *ids, size_t n) {
    char *text = NULL;
    size_t bytes;
    struct mal_error err = {0};
    assert_ok(mal_tokenizer_decode(tok, ids, n, false, false, &text, &bytes, &err), &err);
    return text;
}

/* What is asked, and what is to be answered; NULL: nothing in particular. */
static void expect_example(const struct mal_example *e, const char *prompt,
                           const char *target) {
    char *asked = decode(e->ids, (size_t)e->from + 1);
    assert_string_equal(asked, prompt);
    mal_free(asked);
    assert_int_equal(e->n, e->from + e->n_target);
    if (!target) {
        assert_true(e->n_target == 1 && e->target[0] == -1);
        return;
    }
    char *answer = decode(e->target, (size_t)e->n_target);
    assert_string_equal(answer, target);
    mal_free(answer);
    assert_memory_equal(e->ids + e->from + 1, e->target,
                        (size_t)(e->n_target - 1) * sizeof *e->ids);
}

static void test_data(void **state) {
    struct mal_train_data data = load(records);
    assert_int_equal(data.n_facts, 2);
    assert_int_equal(data.n_examples, 10);
    const struct mal_train_fact *f = data.facts;
    assert_true(f[0].n_edits == 3 && f[0].n_rephrases == 3 && f[0].n_probes == 2);
    const struct mal_example *e = data.examples + f[0].edit;
    expect_example(&e[0], "By trade, Kudo is a", " miller");
    expect_example(&e[1], "The work of Kudo:", " miller");
    expect_example(&e[2], "Kudo works as a", " miller");
    e = data.examples + f[0].rephrase;
    expect_example(&e[0], "Kudo is a", " miller");
    expect_example(&e[1], "The trade of Kudo:", " miller");
    expect_example(&e[2], "Kudo earns as a", " miller");
    e = data.examples + f[0].probe;
    expect_example(&e[0], "The market is", " grey");
    expect_example(&e[1], "The firm", NULL);
    /* Without rephrases the fact itself. */
    assert_true(f[1].n_edits == 1 && f[1].n_rephrases == 1 && f[1].n_probes == 0);
    expect_example(&data.examples[f[1].edit], "The river", " flows");
    expect_example(&data.examples[f[1].rephrase], "The river", " flows");
    assert_true(f[1].rephrase != f[1].edit);
    for (size_t i = 0; i < data.n_examples; i++)
        assert_int_equal(data.examples[i].source, i >= f[1].edit);
    mal_train_data_finish(&data);
}

static void test_first_draws(void **state) {
    struct mal_train_data data = load(records);
    struct mal_train_batch batch;
    struct mal_error err = {0};
    static const size_t facts[] = {1, 0};
    assert_ok(mal_train_batch_make(&batch, &data, facts, 2, 0, &err), &err);
    assert_int_equal(batch.n_facts, 2);
    assert_int_equal(batch.n_edits, 4);
    assert_int_equal(batch.n_rephrases, 2);
    assert_int_equal(batch.n_probes, 1);
    expect_example(&batch.edits[0], "The river", " flows");
    expect_example(&batch.edits[3], "Kudo works as a", " miller");
    expect_example(&batch.rephrases[0], "The river", " flows");
    expect_example(&batch.rephrases[1], "Kudo is a", " miller");
    expect_example(&batch.probes[0], "The market is", " grey");
    mal_train_batch_finish(&batch);
    mal_train_data_finish(&data);
}

/* Which of `first` .. on this is, by its tokens. */
static size_t index_of(const struct mal_train_data *data, const struct mal_example *e,
                       size_t first) {
    size_t i = first;
    while (i < data->n_examples && data->examples[i].ids != e->ids)
        i++;
    return i - first;
}

/* All pairs come up as often, and the same seed draws the same. */
static void test_draws(void **state) {
    enum { N = 3000 };
    struct mal_train_data data = load(records);
    struct mal_error err = {0};
    static const size_t fact[] = {0, 0}, expected = N / 6;
    size_t counts[3][2] = {{0}}, differ = 0;
    for (uint64_t seed = 1; seed <= N; seed++) {
        struct mal_train_batch a, b;
        assert_ok(mal_train_batch_make(&a, &data, fact, 2, seed, &err), &err);
        assert_ok(mal_train_batch_make(&b, &data, fact, 2, seed, &err), &err);
        for (size_t i = 0; i < 2; i++) {
            assert_ptr_equal(a.rephrases[i].ids, b.rephrases[i].ids);
            assert_ptr_equal(a.probes[i].ids, b.probes[i].ids);
        }
        size_t r = index_of(&data, &a.rephrases[0], data.facts[0].rephrase);
        size_t p = index_of(&data, &a.probes[0], data.facts[0].probe);
        assert_true(r < 3 && p < 2);
        counts[r][p]++;
        differ += a.rephrases[0].ids != a.rephrases[1].ids;
        mal_train_batch_finish(&a);
        mal_train_batch_finish(&b);
    }
    for (size_t i = 0; i < 6; i++) /* 5 standard deviations */
        assert_true(abs((int)counts[i / 2][i % 2] - (int)expected) < 105);
    assert_true(abs((int)differ - 2 * N / 3) < 130);
    mal_train_data_finish(&data);
}

static void expect_refused(const char *text, const char *words) {
    struct mal_train_data data;
    struct mal_fact *facts;
    size_t n;
    struct mal_error err = {0};
    assert_ok(mal_facts_load(&facts, &n, scratch_text("facts.ndjson", text), &err), &err);
    assert_false(mal_train_data_make(&data, model, tok, facts, n, &err));
    assert_error(&err, MAL_INVALID, words);
    mal_facts_free(facts, n);
}

static void test_too_long(void **state) {
    char text[1024], words[4 * CONTEXT + 8] = "";
    for (int i = 0; i < CONTEXT + 1; i++)
        strcat(words, " So,");

    static const struct {
        const char *record, *words;
    } cases[] = {
        {"{\"prompt\": \"@\", \"target\": \"b\"}\n", "fact 1, prompt 0"},
        {"{\"prompt\": \"a\", \"target\": \"b\", \"prompts\": [\"c\", \"@\"]}\n",
         "fact 1, prompts 1"},
        {"{\"prompt\": \"a\", \"target\": \"b\", \"rephrases\": [\"c\", \"@\"]}\n",
         "fact 1, rephrase 1"},
        {"{\"prompt\": \"a\", \"target\": \"b\", \"unrelated\": [{\"prompt\": \"@\", "
         "\"target\": \"d\"}]}\n",
         "fact 1, unrelated prompt 0"},
        {"{\"prompt\": \"a\", \"target\": \"b\", \"unrelated\": [{\"prompt\": "
         "\"@\"}]}\n",
         "fact 1, unrelated prompt 0"},
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *at = strchr(cases[i].record, '@');
        snprintf(text, sizeof text,
                 "{\"prompt\": \"The river\", \"target\": \"flows\"}\n%.*s%s%s",
                 (int)(at - cases[i].record), cases[i].record, words, at + 1);
        expect_refused(text, cases[i].words);
    }
}

static bool make_all(const char *path, struct mal_error *err) {
    struct mal_train_data data = {0};
    struct mal_train_batch batch = {0};
    struct mal_fact *facts;
    size_t n;
    static const size_t both[] = {0, 1};
    if (!mal_facts_load(&facts, &n, path, err)) return false;
    bool ok = mal_train_data_make(&data, model, tok, facts, n, err) &&
              mal_train_batch_make(&batch, &data, both, 2, 1, err);
    mal_train_batch_finish(&batch);
    mal_train_data_finish(&data);
    mal_facts_free(facts, n);
    return ok;
}

static void test_no_memory(void **state) {
    fail_each_allocation(make_all, scratch_text("facts.ndjson", records), 20);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_epochs),     cmocka_unit_test(test_seeds),
        cmocka_unit_test(test_fair),       cmocka_unit_test(test_resumed),
        cmocka_unit_test(test_no_shuffle), cmocka_unit_test(test_one_step),
        cmocka_unit_test(test_sizes),      cmocka_unit_test(test_sizes_of_epochs),
        cmocka_unit_test(test_data),       cmocka_unit_test(test_first_draws),
        cmocka_unit_test(test_draws),      cmocka_unit_test(test_too_long),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("train_order", tests, demo_open, demo_close);
}
