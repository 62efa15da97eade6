/* test_model.c - what must hold of a model's passes whatever its weights are, on the demo
 * model: packing changes nothing, the cache changes nothing, what is left out of the
 * backward pass is exact, and gradients are those of the loss. */
#include <math.h>

#include "core/alloc.h"
#include "core/example.h"
#include "core/model/generate.h"
#include "core/model/model_impl.h"
#include "core/model/sample.h"

#include "demo_model.h" /* its `model` would be shadowed in what comes before */

static const char *const prompts[] = {"The country in which Glastwold lies is",
                                      "By trade, Kudo Bockman is a", "The",
                                      "Clasus Pecksen grew up speaking"};
static const char *const targets[] = {"Bulovia", "chemist", "river Thames of long ago",
                                      "Kalese"};

enum { N = sizeof prompts / sizeof *prompts };

static void make_examples(struct mal_example examples[N]) {
    struct mal_error err = {0};
    for (size_t i = 0; i < N; i++) {
        assert_ok(mal_example_init(&examples[i], model, tok, prompts[i], targets[i], NULL,
                                   &err),
                  &err);
    }
}

static void free_examples(struct mal_example examples[N]) {
    for (size_t i = 0; i < N; i++)
        mal_example_finish(&examples[i]);
}

/* ---- Packing ---- */

static float *packed_logits(const struct mal_example *examples, size_t n, int64_t *rows) {
    struct mal_packed packed = {0};
    struct mal_error err = {0};
    assert_ok(mal_examples_pack(examples, NULL, n, &packed, &err), &err);
    *rows = packed.n_labels;
    size_t size = (size_t)(packed.n_labels * mal_model_info(model)->n_vocab);
    float *logits = malloc(size * sizeof *logits);
    struct mal_row_scores out = {.logits = logits};
    assert_ok(mal_model_score(model, &packed.batch, &out, &err), &err);
    mal_packed_finish(&packed);
    return logits;
}

static void assert_close(const float *a, const float *b, int64_t n, double tolerance) {
    for (int64_t i = 0; i < n; i++) {
        double limit = tolerance * (1 + fabs((double)b[i]));
        if (!(fabs((double)a[i] - (double)b[i]) <= limit)) {
            fail_msg("element %lld: %g, expected %g", (long long)i, (double)a[i],
                     (double)b[i]);
        }
    }
}

/* Together, alone, and by the logits of every position: the same rows. */
static void test_packing(void **state) {
    (void)state;
    struct mal_example examples[N] = {{0}};
    struct mal_error err = {0};
    int64_t v = mal_model_info(model)->n_vocab, total, at = 0;
    make_examples(examples);
    float *together = packed_logits(examples, N, &total);
    for (size_t i = 0; i < N; i++) {
        int64_t rows;
        float *alone = packed_logits(&examples[i], 1, &rows);
        assert_int_equal(rows, examples[i].n_target);
        assert_close(together + at * v, alone, rows * v, 2e-5);
        float *all = malloc((size_t)(examples[i].n * v) * sizeof *all);
        assert_ok(mal_model_logits(model, NULL, 0, examples[i].ids, (size_t)examples[i].n,
                                   all, &err),
                  &err);
        assert_close(all + examples[i].from * v, alone, rows * v, 2e-5);
        at += rows;
        free(alone);
        free(all);
    }
    assert_int_equal(at, total);
    free(together);
    free_examples(examples);
}

static void test_bad_batches(void **state) {
    (void)state;
    int32_t start[] = {0, 2}, ids[] = {1, 2}, labels[] = {-1, 3}, from[] = {1};
    struct mal_batch batch = {1, start, ids, from, labels};

    const struct {
        int32_t *what, value;
        const char *words;
    } cases[] = {{&ids[1], 1 << 20, "token id 1048576"},
                 {&ids[0], -1, "token id -1"},
                 {&labels[1], 1 << 20, "label 1048576"},
                 {&from[0], 2, "labels from 2"},
                 {&start[1], 0, "no tokens"}};

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct mal_error err = {0};
        int32_t before = *cases[i].what;
        *cases[i].what = cases[i].value;
        assert_false(mal_model_score(model, &batch, &(struct mal_row_scores){0}, &err));
        assert_int_equal(err.status, MAL_INVALID);
        assert_non_null(strstr(err.text, cases[i].words));
        *cases[i].what = before;
    }
    int32_t *many = calloc(65, sizeof *many);
    struct mal_error err = {0};
    float unused;
    assert_false(mal_model_logits(model, NULL, 0, many, 65, &unused, &err));
    assert_non_null(strstr(err.text, "context is 64"));
    free(many);
}

/* ---- Gradients ---- */

enum { MODULES = 3 };

static const char *const modules[MODULES] = {"transformer.h.1.mlp.c_fc",
                                             "transformer.h.2.attn.c_attn",
                                             "transformer.h.3.mlp.c_proj"};

/* Keys and gradients of all modules, host memory; rows of the packed batch. */
struct measured {
    float *u[MODULES], *g[MODULES];
    double loss;
    int64_t rows;
};

static float *taken(float *mem, int64_t n) {
    struct mal_error err = {0};
    float *x = malloc((size_t)n * sizeof *x);
    assert_non_null(x);
    mal_backend_download(be, x, mem, (size_t)n * sizeof *x);
    assert_ok(mal_backend_sync(be, &err), &err);
    mal_backend_free(be, mem);
    return x;
}

static struct measured measure(const struct mal_example *examples, bool all) {
    struct mal_packed packed = {0};
    struct mal_error err = {0};
    struct measured out = {0};
    assert_ok(mal_examples_pack(examples, NULL, N, &packed, &err), &err);
    out.rows = all ? packed.batch.start[N] : packed.n_labels;
    for (size_t m = 0; m < MODULES; m++) {
        const struct mal_linear *lin = mal_model_edit(model, m);
        out.u[m] = mal_backend_alloc(be, (size_t)(out.rows * lin->d_in) * sizeof(float));
        out.g[m] = mal_backend_alloc(be, (size_t)(out.rows * lin->d_out) * sizeof(float));
    }
    struct mal_measure wanted = {
        .loss_scale = 1, .all_tokens = all, .u = out.u, .g = out.g, .loss = &out.loss};
    assert_ok(mal_model_measure(model, &packed.batch, &wanted, &err), &err);
    for (size_t m = 0; m < MODULES; m++) {
        out.u[m] = taken(out.u[m], out.rows * mal_model_edit(model, m)->d_in);
        out.g[m] = taken(out.g[m], out.rows * mal_model_edit(model, m)->d_out);
    }
    mal_packed_finish(&packed);
    return out;
}

static void release(struct measured *measured) {
    for (size_t m = 0; m < MODULES; m++) {
        free(measured->u[m]);
        free(measured->g[m]);
    }
}

/* What is left out before the first answer row changes nothing of the rows that are kept.
 */
static void test_kept_rows(void **state) {
    (void)state;
    struct mal_example examples[N] = {{0}};
    struct mal_error err = {0};
    make_examples(examples);
    assert_ok(mal_model_set_edits(model, modules, MODULES, &err), &err);
    struct measured few = measure(examples, false), all = measure(examples, true);
    assert_true(fabs(few.loss - all.loss) <= 1e-5 * all.loss);
    for (size_t m = 0; m < MODULES; m++) {
        const struct mal_linear *lin = mal_model_edit(model, m);
        int64_t row = 0, start = 0;
        for (size_t i = 0; i < N; i++) {
            int64_t from = start + examples[i].from, n = examples[i].n_target;
            assert_close(few.u[m] + row * lin->d_in, all.u[m] + from * lin->d_in,
                         n * lin->d_in, 1e-5);
            assert_close(few.g[m] + row * lin->d_out, all.g[m] + from * lin->d_out,
                         n * lin->d_out, 1e-5);
            row += n;
            start += examples[i].n;
        }
    }
    release(&few);
    release(&all);
    free_examples(examples);
}

/* The head in slices of two rows: as in one. */
static void test_head_slices(void **state) {
    (void)state;
    struct mal_example examples[N] = {{0}};
    struct mal_error err = {0};
    int64_t before = model->head_bytes, rows;
    make_examples(examples);
    assert_ok(mal_model_set_edits(model, modules, MODULES, &err), &err);
    struct measured whole = measure(examples, true);
    float *logits = packed_logits(examples, N, &rows);
    model->head_bytes = 2 * model->info.n_vocab * (int64_t)sizeof(float);
    struct measured sliced = measure(examples, true);
    float *in_slices = packed_logits(examples, N, &rows);
    model->head_bytes = before;
    assert_true(rows > 4);
    assert_true(fabs(whole.loss - sliced.loss) <= 1e-5 * whole.loss);
    assert_close(in_slices, logits, rows * model->info.n_vocab, 2e-5);
    for (size_t m = 0; m < MODULES; m++) {
        int64_t n = whole.rows * mal_model_edit(model, m)->d_out;
        assert_close(sliced.g[m], whole.g[m], n, 1e-5);
    }
    free(logits);
    free(in_slices);
    release(&whole);
    release(&sliced);
    free_examples(examples);
}

/* With element j of a bias at this value. */
static double loss_with(const struct mal_example *examples, const float *bias, int64_t j,
                        float value) {
    mal_backend_upload(be, (float *)(uintptr_t)bias + j, &value, sizeof value);
    struct measured measured = measure(examples, false);
    release(&measured);
    return measured.loss;
}

/* Moving a module's output by a constant moves the loss by the sum of its value gradients
 * over all tokens: every layer above it takes part. */
static void test_gradient_of_loss(void **state) {
    (void)state;
    struct mal_example examples[N] = {{0}};
    struct mal_error err = {0};
    make_examples(examples);
    assert_ok(mal_model_set_edits(model, modules, MODULES, &err), &err);
    struct measured all = measure(examples, true);
    for (size_t m = 0; m < MODULES; m++) {
        const struct mal_linear *lin = mal_model_edit(model, m);
        for (int64_t j = 1; j < lin->d_out; j += lin->d_out / 3) {
            double sum = 0;
            float before, step = 0x1p-6F;
            mal_backend_download(be, &before, lin->bias + j, sizeof before);
            assert_ok(mal_backend_sync(be, &err), &err);
            for (int64_t i = 0; i < all.rows; i++)
                sum += (double)all.g[m][i * lin->d_out + j];
            double above = loss_with(examples, lin->bias, j, before + step);
            double below = loss_with(examples, lin->bias, j, before - step);
            mal_backend_upload(be, (float *)(uintptr_t)lin->bias + j, &before,
                               sizeof before);
            double slope = (above - below) / (2 * (double)step);
            if (!(fabs(slope - sum) <= 2e-3 * (1 + fabs(sum)))) {
                fail_msg("%s output %lld: %g, by differences %g", lin->name, (long long)j,
                         sum, slope);
            }
        }
    }
    release(&all);
    free_examples(examples);
}

static void test_edit_modules(void **state) {
    (void)state;
    struct mal_error err = {0};
    const char *const bare[] = {"h.0.mlp.c_proj"}, *const twice[] = {modules[0],
                                                                     modules[0]};
    const char *const unknown[] = {"transformer.h.9.mlp.c_proj"};
    const char **defaults = NULL;
    size_t n = 0;
    assert_ok(mal_model_set_edits(model, bare, 1, &err), &err);
    assert_string_equal(mal_model_edit(model, 0)->name, "transformer.h.0.mlp.c_proj");
    assert_false(mal_model_set_edits(model, twice, 2, &err));
    assert_non_null(strstr(err.text, "twice"));
    err = (struct mal_error){0};
    assert_false(mal_model_set_edits(model, unknown, 1, &err));
    assert_non_null(strstr(err.text, "transformer.h.9.mlp.c_proj"));
    assert_int_equal(mal_model_n_edits(model), 1); /* as it was */
    err = (struct mal_error){0};
    assert_ok(mal_model_default_edits(model, &defaults, &n, &err), &err);
    assert_int_equal(n, 2);
    assert_string_equal(defaults[0], "transformer.h.2.mlp.c_proj");
    mal_free(defaults);
}

/* ---- Generation ---- */

static struct mal_generation generation(const struct mal_ids *prompt) {
    return (struct mal_generation){
        .prompt = prompt->ids, .n_prompt = prompt->n, .max_tokens = 12, .top_p = 1};
}

static void encode_prompts(struct mal_ids out[N]) {
    struct mal_error err = {0};
    for (size_t i = 0; i < N; i++) {
        assert_ok(mal_tokenizer_encode(tok, prompts[i], strlen(prompts[i]), true, &out[i],
                                       &err),
                  &err);
    }
}

/* The most probable token after `ids`, without any cache. */
static int32_t next_token(const int32_t *ids, size_t n) {
    struct mal_error err = {0};
    int64_t v = mal_model_info(model)->n_vocab, best = 0;
    float *logits = malloc(n * (size_t)v * sizeof *logits);
    assert_ok(mal_model_logits(model, NULL, 0, ids, n, logits, &err), &err);
    const float *last = logits + ((int64_t)n - 1) * v;
    for (int64_t i = 1; i < v; i++) {
        if (last[i] > last[best]) best = i;
    }
    free(logits);
    return (int32_t)best;
}

static void test_generation(void **state) {
    (void)state;
    struct mal_ids ids[N] = {{0}};
    struct mal_generation gens[N];
    struct mal_error err = {0};
    encode_prompts(ids);
    for (size_t i = 0; i < N; i++)
        gens[i] = generation(&ids[i]);
    assert_ok(mal_generate(model, tok, gens, N, NULL, NULL, &err), &err);
    for (size_t i = 0; i < N; i++) {
        for (size_t t = 0; t < gens[i].n_ids; t++) {
            assert_int_equal(gens[i].ids[t], next_token(ids[i].ids, ids[i].n));
            assert_ok(mal_ids_push(&ids[i], gens[i].ids[t], &err), &err);
        }
        bool ended = next_token(ids[i].ids, ids[i].n) == mal_model_info(model)->eos;
        if (gens[i].finish == MAL_FINISH_STOP) assert_true(ended);
        if (gens[i].finish == MAL_FINISH_LENGTH) assert_int_equal(gens[i].n_ids, 12);
    }
    assert_string_equal(gens[1].text, " chemist.");
    for (size_t i = 0; i < N; i++) {
        mal_generation_finish(&gens[i]);
        mal_ids_finish(&ids[i]);
    }
}

static void test_limits(void **state) {
    (void)state;
    struct mal_ids ids[N] = {{0}};
    struct mal_error err = {0};
    const char *const stop[] = {"never", "em"};
    encode_prompts(ids);
    struct mal_generation gen = generation(&ids[1]);
    gen.stop = stop;
    gen.n_stop = 2;
    assert_ok(mal_generate(model, tok, &gen, 1, NULL, NULL, &err), &err);
    assert_string_equal(gen.text, " ch");
    assert_int_equal(gen.finish, MAL_FINISH_STOP);
    mal_generation_finish(&gen);

    struct mal_ids full = {0};
    for (int i = 0; i < 62; i++)
        assert_ok(mal_ids_push(&full, 300 + i, &err), &err);
    gen = generation(&full); /* the context of 64 leaves room for two */
    assert_ok(mal_generate(model, tok, &gen, 1, NULL, NULL, &err), &err);
    assert_true(gen.n_ids <= 2);
    mal_generation_finish(&gen);
    for (int i = 0; i < 3; i++)
        assert_ok(mal_ids_push(&full, 300, &err), &err);
    gen = generation(&full);
    assert_false(mal_generate(model, tok, &gen, 1, NULL, NULL, &err));
    assert_non_null(strstr(err.text, "65 tokens"));
    mal_generation_finish(&gen);
    mal_ids_finish(&full);
    for (size_t i = 0; i < N; i++)
        mal_ids_finish(&ids[i]);
}

static bool stop_at_once(void *arg) {
    (void)arg;
    return false;
}

static void test_sampling(void **state) {
    (void)state;
    struct mal_ids ids[N] = {{0}};
    struct mal_error err = {0};
    encode_prompts(ids);
    struct mal_generation gens[4];
    for (size_t i = 0; i < 4; i++) {
        gens[i] = generation(&ids[2]);
        gens[i].temperature = 5;
        gens[i].seed = i < 2 ? 7 : 8;
    }
    gens[3].top_p = 1e-6F; /* only the most probable is left */
    assert_ok(mal_generate(model, tok, gens, 4, NULL, NULL, &err), &err);
    assert_string_equal(gens[0].text, gens[1].text);
    assert_string_not_equal(gens[0].text, gens[2].text);
    struct mal_generation greedy = generation(&ids[2]);
    assert_ok(mal_generate(model, tok, &greedy, 1, NULL, NULL, &err), &err);
    assert_string_equal(gens[3].text, greedy.text);
    for (size_t i = 0; i < 4; i++)
        mal_generation_finish(&gens[i]);
    mal_generation_finish(&greedy);

    greedy = generation(&ids[1]);
    assert_false(mal_generate(model, tok, &greedy, 1, stop_at_once, NULL, &err));
    assert_int_equal(err.status, MAL_CANCELLED);
    mal_generation_finish(&greedy);
    for (size_t i = 0; i < N; i++)
        mal_ids_finish(&ids[i]);
}

/* Draws come as often as softmax says. */
static void test_distribution(void **state) {
    (void)state;
    const float logits[] = {0, logf(2), logf(5), -1000};
    struct mal_candidate scratch[4];
    uint64_t random = 1;
    int count[4] = {0}, nucleus[4] = {0};

    enum { DRAWS = 40000 };

    for (int i = 0; i < DRAWS; i++) {
        count[mal_sample(logits, 4, 1, 1, &random, scratch)]++;
        nucleus[mal_sample(logits, 4, 1, 0.8F, &random, scratch)]++;
    }
    const double expected[] = {1 / 8.0, 2 / 8.0, 5 / 8.0, 0},
                 cut[] = {0, 2 / 7.0, 5 / 7.0, 0};
    for (int i = 0; i < 4; i++) {
        assert_true(fabs((double)count[i] / DRAWS - expected[i]) < 0.015);
        assert_true(fabs((double)nucleus[i] / DRAWS - cut[i]) < 0.015);
    }
}

/* ---- Examples ---- */

static void test_examples(void **state) {
    (void)state;
    struct mal_example plain = {0}, spaced = {0}, joined = {0};
    struct mal_error err = {0};
    assert_ok(mal_example_init(&plain, model, tok, "The town", "Glamdale", NULL, &err),
              &err);
    assert_ok(
        mal_example_init(&spaced, model, tok, "The town  ", "  Glamdale", NULL, &err),
        &err);
    assert_ok(mal_example_init(&joined, model, tok, "The town", "Glamdale", "", &err),
              &err);
    assert_int_equal(plain.n, spaced.n);
    assert_memory_equal(plain.ids, spaced.ids, (size_t)plain.n * sizeof *plain.ids);
    assert_int_equal(plain.n, plain.from + plain.n_target);
    assert_int_not_equal(plain.target[0], joined.target[0]);
    mal_example_finish(&plain);
    mal_example_finish(&spaced);
    mal_example_finish(&joined);

    static char long_prompt[64 * 4 + 1];
    for (size_t i = 0; i < 64; i++)
        memcpy(long_prompt + 4 * i, "The ", 4);

    const struct {
        const char *prompt, *target, *words, *pointer;
    } bad[] = {{" ", "x", "prompt is empty", "/prompt"},
               {"x", "  ", "target is empty", "/target"},
               {long_prompt, "Glamdale", "prompt and target have", "/prompt"},
               {"The", long_prompt, "context is 64", "/target"}};

    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        err = (struct mal_error){0};
        assert_false(mal_example_init(&plain, model, tok, bad[i].prompt, bad[i].target,
                                      NULL, &err));
        assert_int_equal(err.status, MAL_INVALID);
        assert_non_null(strstr(err.text, bad[i].words));
        assert_string_equal(err.pointer, bad[i].pointer);
    }
    err = (struct mal_error){0};
    assert_false(mal_example_open(&plain, model, tok, long_prompt, &err));
    assert_non_null(strstr(err.text, "the prompt has"));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_packing),     cmocka_unit_test(test_bad_batches),
        cmocka_unit_test(test_kept_rows),   cmocka_unit_test(test_gradient_of_loss),
        cmocka_unit_test(test_head_slices), cmocka_unit_test(test_edit_modules),
        cmocka_unit_test(test_generation),  cmocka_unit_test(test_limits),
        cmocka_unit_test(test_sampling),    cmocka_unit_test(test_distribution),
        cmocka_unit_test(test_examples),
    };
    return cmocka_run_group_tests_name("model", tests, demo_open, demo_close);
}
