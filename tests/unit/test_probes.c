/* test_probes.c - prompts to be answered as before: kept as a file has them, asked once
 * on the base weights, and compared with what edited weights say. */
#include "demo_model.h"
#include "no_memory.h"

#include <math.h>

#include "daemon/engine/probes.h"

static struct mal_probes load(const char *path) {
    struct mal_probes probes = {0};
    struct mal_error err = {0};
    assert_ok(mal_probes_load(&probes, path, &err), &err);
    return probes;
}

static const struct mal_probe *probe_at(const struct mal_probes *probes, size_t i) {
    assert_int_equal(probes->asked.facts[i].n_unrelated, 1);
    return &probes->asked.facts[i].unrelated[0];
}

/* ---- Files ---- */

struct expected {
    const char *prompt, *target, *join;
    size_t place;
};

static void expect_probes(const char *content, const char *unit, size_t n,
                          const struct expected *want) {
    struct mal_probes probes = load(scratch_text("probes", content));
    assert_int_equal(probes.asked.n, n);
    assert_string_equal(probes.unit, unit);
    for (size_t i = 0; i < n; i++) {
        assert_text(probe_at(&probes, i)->prompt, want[i].prompt);
        assert_text(probe_at(&probes, i)->target, want[i].target);
        assert_text(probes.asked.facts[i].join, want[i].join);
        assert_int_equal(probes.place[i], want[i].place);
    }
    mal_probes_finish(&probes);
}

static void test_units(void **state) {
    static const struct expected lines[] = {{"The firm", NULL, NULL, 1},
                                            {"By trade, \"he\"", NULL, NULL, 4}};
    expect_probes("The firm\r\n\n \t\nBy trade, \"he\" ", "line", 2, lines);

    static const struct expected mixed[] = {{"The firm", NULL, NULL, 0},
                                            {"By", "trade", NULL, 1},
                                            {"\xe7\x94\xb2", "\xe4\xb9\x99", "", 2}};
    expect_probes("{\"prompt\": \"The firm\", \"subject\": \"x\"}\n"
                  "{\"prompt\": \"By\", \"target\": \"trade\"}\n"
                  "{\"prompt\": \"\xe7\x94\xb2\", \"target\": \"\xe4\xb9\x99\", "
                  "\"join\": \"\"}\n",
                  "record", 3, mixed);

    static const struct expected facts[] = {{"By", "trade", NULL, 0},
                                            {"The", "firm", NULL, 1}};
    expect_probes("By\ttrade\nThe\tfirm\n", "fact", 2, facts);
}

static void refuse(const char *content, enum mal_status status, const char *words) {
    struct mal_error err = {0};
    struct mal_probes probes = {0};
    if (mal_probes_load(&probes, scratch_text("bad", content), &err))
        fail_msg("believed: %s", words);
    assert_error(&err, status, words);
    assert_null(probes.asked.facts);
}

static void test_bad_files(void **state) {
    refuse("", MAL_INVALID, "bad: no prompt in it");
    refuse("[]", MAL_INVALID, "bad: no prompt in it");
    refuse("[\"a\", 3]", MAL_INVALID, "bad: record 1 is not a prompt, as the first");
    refuse("fine\nnot \xff fine", MAL_MALFORMED, "bad: line 2: not UTF-8");
}

/* Of a large file the same prompts in its order, from all over it. */
static void test_sample(void **state) {
    enum { N = 5000 };

    static char text[N * 16];
    size_t used = 0, by_fifth[5] = {0};
    for (int i = 0; i < N; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "prompt %d\n", i + 1);
    const char *path = scratch_text("large", text);
    struct mal_probes probes = load(path), again = load(path);
    assert_int_equal(probes.asked.n, MAL_MAX_PROBES);
    assert_int_equal(again.asked.n, MAL_MAX_PROBES);
    for (size_t i = 0; i < MAL_MAX_PROBES; i++) {
        char want[32];
        snprintf(want, sizeof want, "prompt %zu", probes.place[i]);
        assert_string_equal(probe_at(&probes, i)->prompt, want);
        assert_int_equal(again.place[i], probes.place[i]);
        if (i > 0) assert_true(probes.place[i - 1] < probes.place[i]);
        by_fifth[(probes.place[i] - 1) / (N / 5)]++;
    }
    for (int i = 0; i < 5; i++)
        assert_true(by_fifth[i] > 140 && by_fifth[i] < 270);
    mal_probes_finish(&probes);
    mal_probes_finish(&again);
}

static void test_check(void **state) {
    static char text[1024];
    struct mal_error err = {0};
    struct mal_probes probes = load(scratch_text("fine", "The firm\nBy trade, he is a"));
    assert_ok(mal_probes_check(&probes, model, tok, &err), &err);
    mal_probes_finish(&probes);

    size_t used = (size_t)snprintf(text, sizeof text, "The firm\n");
    for (int i = 0; i < 200; i++)
        used += (size_t)snprintf(text + used, sizeof text - used, "The ");
    probes = load(scratch_text("long", text));
    assert_false(mal_probes_check(&probes, model, tok, &err));
    assert_error(&err, MAL_INVALID, "long: line 2: ");
    mal_probes_finish(&probes);

    probes =
        load(scratch_text("blank", "[\"a\", {\"prompt\": \"b\", \"target\": \"\"}]"));
    assert_false(mal_probes_check(&probes, model, tok, &err));
    assert_error(&err, MAL_INVALID, "blank: record 1: the target is empty");
    mal_probes_finish(&probes);
}

/* ---- Agreement ---- */

static struct mal_fact *facts;
static size_t n_facts;

/* Weights of the last block's MLP that say nothing; the base's when they are not edited.
 */
static void use(bool edited) {
    static const void *base, *zeros;
    struct mal_linear *lin = mal_model_find_linear(model, "transformer.h.3.mlp.c_proj");
    assert_non_null(lin);
    if (!zeros) {
        size_t bytes = (size_t)(lin->d_in * lin->d_out) * sizeof(float);
        void *mem = mal_backend_alloc(be, bytes);
        assert_non_null(mem);
        mal_backend_zero(be, mem, bytes);
        base = lin->w;
        zeros = mem;
    }
    lin->w = edited ? zeros : base;
}

static void open_agreement(struct mal_agreement *a, struct mal_probes *probes, size_t n) {
    struct mal_error err = {0};
    assert_ok(mal_agreement_open(a, probes, model, tok, facts, n, NULL, NULL, &err),
              &err);
}

static double measure(const struct mal_agreement *a) {
    struct mal_error err = {0};
    double out = -1;
    assert_ok(mal_agreement_measure(a, model, tok, NULL, NULL, &out, &err), &err);
    return out;
}

/* How many of the answers stay when the weights are edited, asked all at once. */
static size_t naive_same(const struct mal_fact *asked, size_t n, size_t *out_n) {
    struct mal_answers base = {0}, edited = {0};
    struct mal_error err = {0};
    use(false);
    assert_ok(mal_answers_make(model, tok, asked, n, 1 << 20, NULL, NULL, &base, &err),
              &err);
    use(true);
    assert_ok(mal_answers_make(model, tok, asked, n, 1 << 20, NULL, NULL, &edited, &err),
              &err);
    use(false);
    size_t same = mal_answers_same(&base, &edited);
    *out_n = base.n;
    mal_answers_finish(&base);
    mal_answers_finish(&edited);
    return same;
}

static void test_agreement(void **state) {
    enum { N = 60 };
    struct mal_probes probes = load(scratch_text(
        "probes",
        "The firm\nBy trade, Kudo Bockman is a\nThe town where she was born is"));
    struct mal_agreement a = {0}, own = {0}, none = {0};
    use(false);
    open_agreement(&a, &probes, N);
    open_agreement(&own, NULL, N);
    open_agreement(&none, NULL, 0);
    assert_true(measure(&a) == 1);
    assert_true(isnan(measure(&none)));

    size_t n_own, n_common, same_own = naive_same(facts, N, &n_own);
    size_t same_common = naive_same(probes.asked.facts, probes.asked.n, &n_common);
    assert_true(same_own < n_own && n_common == 3 && n_own > 64);
    assert_int_equal(a.own.n, n_own);
    assert_true(a.own.n_slices > 1);
    use(true);
    double want = (double)(same_own + same_common) / (double)(n_own + n_common);
    assert_true(fabs(measure(&a) - want) < 1e-12);
    assert_true(fabs(measure(&own) - (double)same_own / (double)n_own) < 1e-12);

    /* The base's answers to the file's prompts are not asked for again. */
    const struct mal_answers *kept = probes.asked.base;
    mal_agreement_finish(&none);
    open_agreement(&none, &probes, 0);
    assert_ptr_equal(probes.asked.base, kept);
    assert_true(fabs(measure(&none) - (double)same_common / (double)n_common) < 1e-12);
    use(false);
    mal_agreement_finish(&a);
    mal_agreement_finish(&own);
    mal_agreement_finish(&none);
    mal_probes_finish(&probes);
}

static bool is_of(const struct mal_fact *fact, const struct mal_probe *probe) {
    for (size_t j = 0; j < fact->n_unrelated; j++) {
        if (probe == &fact->unrelated[j]) return true;
    }
    return false;
}

/* Of the unrelated prompts of a large batch a part, from all over it. */
static void test_large_batch(void **state) {
    struct mal_agreement a = {0};
    size_t n = 0, in_first_half = 0, fact = 0;
    for (size_t i = 0; i < n_facts; i++)
        n += facts[i].n_unrelated;
    assert_true(n > 2 * MAL_MAX_BATCH_UNRELATED);
    open_agreement(&a, NULL, n_facts);
    assert_int_equal(a.own.n, MAL_MAX_BATCH_UNRELATED);
    for (size_t i = 0; i < a.own.n; i++) {
        while (!is_of(&facts[fact], a.own.facts[i].unrelated))
            assert_true(++fact < n_facts);
        in_first_half += fact < n_facts / 2;
    }
    assert_true(in_first_half > 90 && in_first_half < 166);
    mal_agreement_finish(&a);
}

static bool stop_later(void *arg) {
    return --*(int *)arg > 0;
}

static void test_cancelled(void **state) {
    struct mal_probes probes = load(scratch_text("probes", "The firm"));
    struct mal_agreement a = {0};
    struct mal_error err = {0};
    double out = -1;
    for (int left = 1; left < 4; left++) {
        int ticks = left;
        assert_false(mal_agreement_open(&a, &probes, model, tok, facts, 1, stop_later,
                                        &ticks, &err));
        assert_error(&err, MAL_CANCELLED, "cancelled");
        assert_null(probes.asked.base);
        assert_null(a.own.facts);
    }
    open_agreement(&a, &probes, 1);
    int ticks = 2;
    assert_false(mal_agreement_measure(&a, model, tok, stop_later, &ticks, &out, &err));
    assert_error(&err, MAL_CANCELLED, "cancelled");
    assert_true(out == -1);
    assert_true(measure(&a) == 1);
    mal_agreement_finish(&a);
    mal_probes_finish(&probes);
}

/* ---- Models that continue no text ---- */

static void check_kind(const char *name, const char *content, const char *bad,
                       const char *words) {
    char dir[600];
    struct mal_error err = {0};
    struct mal_model *demo = model;
    struct mal_tokenizer *demo_tok = tok;
    snprintf(dir, sizeof dir, "%s/%s/model", golden_dir(), name);
    assert_ok(mal_model_open(&model, dir, be, &err), &err);
    assert_ok(mal_tokenizer_open(&tok, dir, &err), &err);
    struct mal_probes probes = load(scratch_text("kind", content));
    struct mal_agreement a = {0};
    assert_ok(mal_probes_check(&probes, model, tok, &err), &err);
    open_agreement(&a, &probes, 0);
    assert_true(measure(&a) == 1);
    mal_agreement_finish(&a);
    mal_probes_finish(&probes);
    probes = load(scratch_text("kind", bad));
    assert_false(mal_probes_check(&probes, model, tok, &err));
    assert_error(&err, MAL_INVALID, words);
    mal_probes_finish(&probes);
    mal_tokenizer_close(tok);
    mal_model_close(model);
    model = demo;
    tok = demo_tok;
}

static void test_kinds(void **state) {
    check_kind("bert-malmen", "[\"a b\", {\"prompt\": \"c\", \"target\": \"REFUTES\"}]",
               "[\"a\", {\"prompt\": \"c\", \"target\": \"no\"}]",
               "kind: record 1: the target is neither");
    check_kind("t5-malmen", "a b\nc", "[\"\"]", "kind: record 0: the prompt is empty");
}

/* ---- Lack of memory ---- */

static bool load_finish(const char *path, struct mal_error *err) {
    struct mal_probes probes;
    if (!mal_probes_load(&probes, path, err)) return false;
    mal_probes_finish(&probes);
    return true;
}

static void test_no_memory(void **state) {
    char path[64];
    snprintf(path, sizeof path, "%s", scratch_text("memory.txt", "The firm\nis"));
    fail_each_allocation(load_finish, path, 6);
    snprintf(path, sizeof path, "%s",
             scratch_text("memory.json", "{\"prompt\": \"a\", \"target\": \"b\", "
                                         "\"join\": \"\"}"));
    fail_each_allocation(load_finish, path, 10);
    snprintf(path, sizeof path, "%s", scratch_text("memory.tsv", "The firm\tis"));
    fail_each_allocation(load_finish, path, 10);
}

static int open_all(void **state) {
    char path[512];
    struct mal_error err = {0};
    if (demo_open(state)) return -1;
    snprintf(path, sizeof path, "%s/tests/demo/facts/heldout.ndjson",
             getenv("MAL_SOURCE_ROOT"));
    return mal_facts_load(&facts, &n_facts, path, &err) ? 0 : -1;
}

static int close_all(void **state) {
    mal_facts_free(facts, n_facts);
    return demo_close(state);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_units),     cmocka_unit_test(test_bad_files),
        cmocka_unit_test(test_sample),    cmocka_unit_test(test_check),
        cmocka_unit_test(test_agreement), cmocka_unit_test(test_large_batch),
        cmocka_unit_test(test_cancelled), cmocka_unit_test(test_kinds),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests_name("probes", tests, open_all, close_all);
}
