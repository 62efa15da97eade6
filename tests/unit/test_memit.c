/* test_memit.c - the parts of a MEMIT edit by themselves: where a subject's last token
 * is, what is refused of a fact, the solve in both its forms. */
#include "delta_part.h"
#include "edit_golden.h"

#include "core/editor/memit_impl.h"

/* ---- Where a subject ends ---- */

static size_t bytes_of(const struct mal_tokenizer *tok, const int32_t *ids, int32_t n) {
    struct mal_error err = {0};
    char *text = NULL;
    size_t bytes = 0;
    assert_ok(mal_tokenizer_decode(tok, ids, (size_t)n, true, true, &text, &bytes, &err),
              &err);
    mal_free(text);
    return bytes;
}

/* Of every place between two characters: with the token those before it are there,
 * without it they are not. */
static void check_places(const struct mal_tokenizer *tok, const char *text) {
    struct mal_error err = {0};
    struct mal_ids ids = {0};
    size_t bytes = strlen(text);
    assert_ok(mal_tokenizer_encode(tok, text, bytes, true, &ids, &err), &err);
    for (size_t end = 1; end <= bytes; end++) {
        int32_t at = -1;
        if ((text[end] & 0xc0) == 0x80) continue;
        assert_ok(
            mal_memit_last_token(tok, text, end, ids.ids, (int32_t)ids.n, &at, &err),
            &err);
        assert_in_range(at, 0, ids.n - 1);
        size_t with = bytes_of(tok, ids.ids, at + 1),
               without = bytes_of(tok, ids.ids, at);
        if (with < end || without >= end)
            fail_msg("'%s', byte %zu: token %d goes from %zu to %zu", text, end, at,
                     without, with);
    }
    mal_ids_finish(&ids);
}

static void case_path(char out[1024], const char *name, const char *file) {
    const char *root = getenv("MAL_SOURCE_ROOT");
    snprintf(out, 1024, "%s/tests/golden/cases/%s/%s", root ? root : ".", name, file);
}

/* All kinds of tokenizers, letters of several bytes among theirs. */
static void last_tokens(void **state) {
    static const char *const names[] = {
        "gpt2-malmen",  "gptj-malmen",  "llama-malmen", "llama3-ultraedit-sequential",
        "mistral-mend", "qwen2-malmen", "gemma3-malmen"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char path[1024];
        struct mal_error err = {0};
        struct mal_tokenizer *tok;
        struct mal_fact *facts;
        size_t n;
        case_path(path, names[i], "model");
        assert_ok(mal_tokenizer_open(&tok, path, &err), &err);
        case_path(path, names[i], "facts.json");
        assert_ok(mal_facts_load(&facts, &n, path, &err), &err);
        for (size_t k = 0; k < n; k++)
            check_places(tok, facts[k].prompt);
        mal_facts_free(facts, n);
        mal_tokenizer_close(tok);
    }
}

/* ---- Facts ---- */

static char alone[] = "{}", sentence[] = "The tower is {}";
static char *templates[] = {alone, sentence};
static size_t groups[] = {1, 1};
static const struct mal_memit memit = {
    .contexts = templates, .n_contexts = 2, .groups = groups, .n_groups = 2};

static const struct refused {
    const char *prompt, *subject, *other, *pointer, *words;
} refusals[] = {
    {"Calla Rou was born in", NULL, NULL, "/subject", "needs the subject"},
    {"Calla Rou was born in", "", NULL, "/subject", "needs the subject"},
    {"Calla Rou was born in", "Bram", NULL, "/prompt", "'Bram' does not occur"},
    {"Calla Rou was born in", "Calla", "The tower", "/prompts/0",
     "'Calla' does not occur"},
    {NULL, "Calla Rou", NULL, "/prompt", "in a context: prompt and target have"},
};

/* As long as the model's context lets it be. */
static char *longest_prompt(const struct mal_model *model,
                            const struct mal_tokenizer *tok) {
    static char prompt[512];
    struct mal_error err = {0};
    struct mal_example e = {0};
    strcpy(prompt, "Calla Rou was born");
    size_t n = strlen(prompt);
    do {
        mal_example_finish(&e);
        strcpy(prompt + n, " in");
        n += 3;
    } while (mal_example_init(&e, model, tok, prompt, "Ostrava", NULL, &err));
    prompt[n - 3] = 0;
    return prompt;
}

static void facts(void **state) {
    struct mal_error err = {0};
    struct mal_model *model;
    struct mal_tokenizer *tok;
    char path[1024];
    case_path(path, "gpt2-malmen", "model");
    assert_ok(mal_model_open(&model, path, test_backend(), &err), &err);
    assert_ok(mal_tokenizer_open(&tok, path, &err), &err);
    for (size_t i = 0; i < sizeof refusals / sizeof *refusals; i++) {
        const struct refused *r = &refusals[i];
        char *prompt = r->prompt ? (char *)r->prompt : longest_prompt(model, tok);
        struct mal_fact fact = {.prompt = prompt,
                                .target = (char *)"Ostrava",
                                .subject = (char *)r->subject,
                                .prompts = (char **)&r->other,
                                .n_prompts = r->other != NULL};
        struct mal_memit_fact read;
        struct mal_error own = {0};
        if (mal_memit_fact_init(&read, &memit, model, tok, &fact, &own))
            fail_msg("'%s' is not refused", prompt);
        assert_int_equal(own.status, MAL_INVALID);
        assert_string_equal(own.pointer, r->pointer);
        if (!strstr(own.text, r->words)) fail_msg("%s", own.text);
    }
    /* The last of several counts; of two prompts both have both contexts. */
    char *other = (char *)"The birthplace of Bram is";
    struct mal_fact fact = {.prompt = (char *)"Bram Bram was born in",
                            .target = (char *)"Ostrava",
                            .subject = (char *)"Bram",
                            .prompts = &other,
                            .n_prompts = 1};
    struct mal_memit_fact *read = mal_calloc(1, sizeof *read);
    assert_ok(mal_memit_fact_init(read, &memit, model, tok, &fact, &err), &err);
    assert_int_equal(read->n, 4);
    static const char *const upto[] = {"Bram Bram", "The tower is Bram Bram",
                                       "The birthplace of Bram",
                                       "The tower is The birthplace of Bram"};
    for (size_t t = 0; t < 4; t++)
        assert_int_equal(bytes_of(tok, read->texts[t].ids, read->at[t] + 1),
                         strlen(upto[t]));
    assert_int_equal(bytes_of(tok, read->about.ids, (int32_t)read->about.n),
                     strlen("Bram"));
    mal_memit_facts_free(read, 1);
    mal_tokenizer_close(tok);
    mal_model_close(model);
}

/* ---- Values ---- */

enum { N_VALUES = 6, V_STEPS = 30 };

struct descents {
    int64_t steps[N_VALUES];
    double losses[N_VALUES][V_STEPS];
};

static void watch(void *arg, size_t fact, int64_t step, const struct mal_memit_terms *t) {
    struct descents *d = arg;
    assert_true(fact < N_VALUES && step == d->steps[fact] && step < V_STEPS);
    d->losses[fact][d->steps[fact]++] = t->loss;
}

static bool third_tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    (void)stage;
    assert_true(done <= total && total == N_VALUES * V_STEPS);
    return ++*(int *)arg < 3;
}

/* A fact whose loss is low enough leaves, and the others go on as if it had not been. */
static void leaving(void **state) {
    static const double hyper[MAL_MEMIT_N_HYPER] = {[MAL_MEMIT_V_LR] = 2,
                                                    [MAL_MEMIT_V_STEPS] = V_STEPS,
                                                    [MAL_MEMIT_V_WEIGHT_DECAY] = 0.5,
                                                    [MAL_MEMIT_CLAMP] = 4,
                                                    [MAL_MEMIT_KL_FACTOR] = 0.0625};
    static const struct mal_memit plain = {
        .contexts = templates, .n_contexts = 1, .groups = groups, .n_groups = 1};
    static float z[2][N_VALUES * 512];
    const char *root = getenv("MAL_SOURCE_ROOT");
    char path[1024];
    struct mal_error err = {0};
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_fact *facts;
    size_t n;
    snprintf(path, sizeof path, "%s/tests/demo/model", root ? root : ".");
    assert_ok(mal_model_open(&model, path, test_backend(), &err), &err);
    assert_ok(mal_tokenizer_open(&tok, path, &err), &err);
    snprintf(path, sizeof path, "%s/tests/demo/facts/demo-edit.json", root ? root : ".");
    assert_ok(mal_facts_load(&facts, &n, path, &err), &err);
    struct mal_memit_fact *read = mal_calloc(N_VALUES, sizeof *read);
    assert_true(read && n >= N_VALUES && mal_model_info(model)->n_channels <= 512);
    for (size_t i = 0; i < N_VALUES; i++)
        assert_ok(mal_memit_fact_init(&read[i], &plain, model, tok, &facts[i], &err),
                  &err);
    struct descents seen[2] = {0};
    struct mal_edit_report report = {0};
    struct mal_memit_values values = {.model = model,
                                      .block = 0,
                                      .hyper = hyper,
                                      .facts = read,
                                      .n = N_VALUES,
                                      .report = &report,
                                      .watch = watch};
    for (size_t k = 0; k < 2; k++) { /* together, alone */
        values.most_facts = k;
        values.watch_arg = &seen[k];
        assert_ok(mal_memit_find_values(&values, z[k], &err), &err);
    }
    size_t early = 0;
    for (size_t i = 0; i < N_VALUES; i++) {
        int64_t steps = seen[0].steps[i];
        assert_int_equal(steps, seen[1].steps[i]);
        early += steps < V_STEPS;
        assert_true(steps == V_STEPS || seen[0].losses[i][steps - 1] < 0.05);
        for (int64_t s = 0; s < steps; s++) {
            assert_true(s == steps - 1 || seen[0].losses[i][s] >= 0.05);
            double want = seen[1].losses[i][s];
            assert_true(fabs(seen[0].losses[i][s] - want) <= 1e-3 * (1 + want));
        }
    }
    assert_in_range(early, 1, N_VALUES - 1);
    assert_true(relative_error_f32(z[0], z[1],
                                   N_VALUES * mal_model_info(model)->n_channels) <= 1e-3);

    int ticks = 0;
    struct mal_progress progress = {third_tick, &ticks};
    values.watch = NULL;
    values.progress = &progress;
    assert_false(mal_memit_find_values(&values, z[0], &err));
    assert_int_equal(err.status, MAL_CANCELLED);
    mal_memit_facts_free(read, N_VALUES);
    mal_facts_free(facts, n);
    mal_tokenizer_close(tok);
    mal_model_close(model);
}

/* ---- The solve ---- */

/* x := a^-1 x for a (n, n), x (n, m), by elimination: a is positive definite. */
static void eliminate(double *a, double *x, int64_t n, int64_t m) {
    for (int64_t p = 0; p < n; p++) {
        for (int64_t i = 0; i < n; i++) {
            if (i == p) continue;
            double f = a[i * n + p] / a[p * n + p];
            for (int64_t j = p; j < n; j++)
                a[i * n + j] -= f * a[p * n + j];
            for (int64_t j = 0; j < m; j++)
                x[i * m + j] -= f * x[p * m + j];
        }
    }
    for (int64_t i = 0; i < n; i++) {
        for (int64_t j = 0; j < m; j++)
            x[i * m + j] /= a[i * n + i];
    }
}

/* c (d, d) from `rows` random ones, each input of another size. */
static float *moments(int64_t d, int64_t rows) {
    float *x = random_floats(rows * d, 1, 5), *c = mal_calloc((size_t)(d * d), sizeof *c);
    assert_non_null(c);
    for (int64_t i = 0; i < d; i++) {
        for (int64_t j = 0; j < d; j++) {
            double sum = 0;
            for (int64_t k = 0; k < rows; k++)
                sum += (double)x[k * d + i] * (double)x[k * d + j];
            c[i * d + j] = (float)(sum / (double)rows / (double)((1 + i) * (1 + j)));
        }
    }
    mal_free(x);
    return c;
}

static double *expected_shift(const float *c, double weight, const float *k,
                              const float *r, int64_t n, int64_t d, int64_t out) {
    double *a = mal_calloc((size_t)(d * d), sizeof *a),
           *s = mal_calloc((size_t)(d * out), sizeof *s);
    assert_true(a && s);
    for (int64_t i = 0; i < d; i++) {
        for (int64_t j = 0; j < d; j++) {
            a[i * d + j] = weight * (double)c[i * d + j];
            for (int64_t f = 0; f < n; f++)
                a[i * d + j] += (double)k[f * d + i] * (double)k[f * d + j];
        }
        for (int64_t j = 0; j < out; j++) {
            for (int64_t f = 0; f < n; f++)
                s[i * out + j] += (double)k[f * d + i] * (double)r[f * out + j];
        }
    }
    eliminate(a, s, d, out);
    mal_free(a);
    return s;
}

static bool never(void *arg) {
    return ++*(int *)arg < 3;
}

/* With few facts and many, the factor being made and being there; one that is cut off
 * leaves nothing. */
static void solving(void **state) {
    static const int64_t sizes[] = {1, 4, 9, 10, 30, 100};

    enum { D = 40, OUT = 16 };
    struct mal_error err = {0};
    struct mal_memit *own = mal_memit_create(1, &err);
    assert_non_null(own);
    own->d_in[0] = D;
    own->mom2[0] = moments(D, 200);
    struct mal_backend *be = test_backend();
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        int64_t n = sizes[i];
        float *k = random_floats(n * D, 1, 20 + i),
              *r = random_floats(n * OUT, 1, 40 + i);
        struct mal_memit_solve s = {.memit = own,
                                    .mom2_weight = 7,
                                    .module = "m",
                                    .n = n,
                                    .d_in = D,
                                    .d_out = OUT,
                                    .dtype = i % 2 ? MAL_BF16 : MAL_F32,
                                    .k = on_device(k, n * D),
                                    .r = on_device(r, n * OUT),
                                    .pace = {.be = be}};
        struct mal_delta_part part = {0};
        struct mal_memit_solve cut = s;
        struct mal_error own_err = {0};
        int ticks = 0;
        cut.pace.tick = never;
        cut.pace.arg = &ticks;
        assert_false(mal_memit_solve(&cut, &part, &own_err));
        assert_int_equal(own_err.status, MAL_CANCELLED);
        assert_ok(mal_memit_solve(&s, &part, &err), &err);
        bool few = mal_delta_factors_pay(D, OUT, n);
        assert_int_equal(part.rank, few ? n : 0);
        assert_int_equal(part.dtype, s.dtype);
        double *want = expected_shift(own->mom2[0], 7, k, r, n, D, OUT);
        double *got = part_shift(&part);
        double error = relative_error(got, want, D * OUT);
        if (!(error <= (s.dtype == MAL_BF16 ? 4e-3 : 3e-7)))
            fail_msg("%lld facts: error %g", (long long)n, error);
        mal_free(want);
        mal_free(got);
        mal_free(part.module);
        mal_free(part.data);
        free_device(s.k);
        free_device(s.r);
        mal_free(k);
        mal_free(r);
    }
    mal_memit_destroy(own);
}

/* Two inputs that are the same but for fp32's rounding, which leaves C with a negative
 * eigenvalue: solved as if they could be told apart a little. */
static void nearly_singular(void **state) {
    enum { D = 12, OUT = 6 };

    for (int64_t n = 2; n <= 20; n += 18) {
        struct mal_error err = {0};
        struct mal_memit *own = mal_memit_create(1, &err);
        assert_non_null(own);
        own->d_in[0] = D;
        float *c = own->mom2[0] = moments(D, 100);
        for (int64_t j = 0; j < D; j++)
            c[(D - 1) * D + j] = c[j * D + D - 1] = c[j];
        c[(D - 1) * D] = c[D - 1] = c[0];
        c[D * D - 1] = c[0] * (1 - 1e-7F);
        float *k = random_floats(n * D, 1, 3), *r = random_floats(n * OUT, 1, 4);
        for (int64_t i = 0; i < n; i++)
            k[i * D + D - 1] = k[i * D];
        struct mal_memit_solve s = {.memit = own,
                                    .mom2_weight = 30,
                                    .module = "m",
                                    .n = n,
                                    .d_in = D,
                                    .d_out = OUT,
                                    .k = on_device(k, n * D),
                                    .r = on_device(r, n * OUT),
                                    .pace = {.be = test_backend()}};
        struct mal_delta_part part = {0};
        assert_ok(mal_memit_solve(&s, &part, &err), &err);
        assert_true(part.norm > 0 && part.norm < 1e3);
        /* What it does to the keys is as if they differed more. */
        c[D * D - 1] *= 1 + 1e-4F;
        double *want = expected_shift(c, 30, k, r, n, D, OUT), *got = part_shift(&part);
        for (int64_t i = 0; i < n * OUT; i++) {
            double a = 0, b = 0;
            for (int64_t j = 0; j < D; j++) {
                a += (double)k[i / OUT * D + j] * got[j * OUT + i % OUT];
                b += (double)k[i / OUT * D + j] * want[j * OUT + i % OUT];
            }
            assert_true(fabs(a - b) <= 1e-3 * (1e-3 + fabs(b)));
        }
        mal_free(want);
        mal_free(got);
        mal_free(part.module);
        mal_free(part.data);
        free_device(s.k);
        free_device(s.r);
        mal_free(k);
        mal_free(r);
        mal_memit_destroy(own);
    }
}

static void singular(void **state) {
    struct mal_error err = {0};
    struct mal_memit *own = mal_memit_create(1, &err);
    assert_non_null(own);
    own->d_in[0] = 8;
    own->mom2[0] = mal_calloc(64, sizeof(float));
    float *x = on_device(NULL, 8);
    struct mal_memit_solve s = {.memit = own,
                                .mom2_weight = 1,
                                .module = "h.0.mlp",
                                .n = 1,
                                .d_in = 8,
                                .d_out = 8,
                                .k = x,
                                .r = x,
                                .pace = {.be = test_backend()}};
    struct mal_delta_part part = {0};
    assert_false(mal_memit_solve(&s, &part, &err));
    assert_int_equal(err.status, MAL_NUMERIC);
    assert_non_null(strstr(err.text, "module 'h.0.mlp'"));
    free_device(x);
    mal_memit_destroy(own);
}

/* What such a layer gives is not what its block adds. */
static void behind_a_norm(void **state) {
    static const char *const cases[][2] = {{"gemma3-malmen", "gemma3_text"},
                                           {"olmo2-malmen", "olmo2"}};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char path[1024];
        struct mal_error err = {0};
        struct mal_model *model;
        const char **names = NULL;
        size_t n = 0;
        case_path(path, cases[i][0], "model");
        assert_ok(mal_model_look(&model, path, &err), &err);
        assert_false(mal_memit_choose(model, &names, &n, &err));
        assert_error(&err, MAL_INVALID, cases[i][1]);
        mal_model_close(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(last_tokens),   cmocka_unit_test(facts),
        cmocka_unit_test(behind_a_norm), cmocka_unit_test(leaving),
        cmocka_unit_test(solving),       cmocka_unit_test(nearly_singular),
        cmocka_unit_test(singular),
    };
    return cmocka_run_group_tests_name("memit", tests, NULL, NULL);
}
