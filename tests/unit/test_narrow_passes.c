/* test_narrow_passes.c - models in bf16, on the device that rounds activations where
 * there is one: what passes say is the same, whether some of their blocks write
 * activations as products read them, or all in fp32. */
#include "learning.h"

#include "core/backend_impl.h"
#include "core/round.h"

/* In the last digits: a product's kernel may be another one, and what it gives rounded
 * the other way. What is wrong is off by more. */
static const double tolerance = 0.02;

static const char *name; /* of the model */

/* What passes over a batch say. */
struct said {
    float *logits, *every;
    float *u[MAX_EDITS], *g[MAX_EDITS], *keys[MAX_EDITS];
    struct values dw;
    double loss[2];
};

static struct said listen(const struct made_batch *b) {
    struct said s = {.logits = row_logits(b, false), .every = logits_alone(b)};
    float *u[MAX_EDITS], *g[MAX_EDITS], *keys[MAX_EDITS];
    struct mal_error err = {0};
    for (size_t m = 0; m < model->n_edits; m++) {
        u[m] = on_device(NULL, n_rows(b, m) * model->edits[m]->d_in);
        keys[m] = on_device(NULL, n_rows(b, m) * model->edits[m]->d_in);
        g[m] = on_device(NULL, n_rows(b, m) * model->edits[m]->d_out);
    }
    struct mal_measure what = {.loss_scale = 1, .u = u, .g = g, .loss = &s.loss[0]};
    assert_ok(mal_model_measure(model, &b->batch, &what, &err), &err);
    assert_ok(mal_model_keys(model, &b->batch, keys, &err), &err);
    for (size_t m = 0; m < model->n_edits; m++) {
        s.u[m] = taken(u[m], n_rows(b, m) * model->edits[m]->d_in);
        s.keys[m] = taken(keys[m], n_rows(b, m) * model->edits[m]->d_in);
        s.g[m] = taken(g[m], n_rows(b, m) * model->edits[m]->d_out);
    }
    s.dw = learn(b, false, &s.loss[1]);
    return s;
}

static void said_free(struct said *s) {
    mal_free(s->logits);
    mal_free(s->every);
    for (size_t m = 0; m < model->n_edits; m++) {
        mal_free(s->u[m]);
        mal_free(s->g[m]);
        mal_free(s->keys[m]);
    }
    values_free(&s->dw);
}

/* `got` is near `want`, measured by the largest of them. */
static void check_near(const char *what, const float *got, const float *want, int64_t n) {
    double largest = 0;
    for (int64_t i = 0; i < n; i++)
        largest = fmax(largest, fabs((double)want[i]));
    for (int64_t i = 0; i < n; i++) {
        if (!(fabs((double)got[i] - (double)want[i]) <= tolerance * largest))
            fail_msg("%s, %s, element %lld: %g, must be %g", name, what, (long long)i,
                     (double)got[i], (double)want[i]);
    }
}

static void check_same(const struct made_batch *b, const struct said *got,
                       const struct said *want) {
    int64_t v = model->info.n_outputs;
    check_near("logits", got->logits, want->logits, b->rows * v);
    check_near("logits of every position", got->every, want->every, b->tokens * v);
    for (size_t m = 0; m < model->n_edits; m++) {
        const struct mal_linear *lin = model->edits[m];
        check_near(lin->name, got->u[m], want->u[m], n_rows(b, m) * lin->d_in);
        check_near(lin->name, got->keys[m], want->keys[m], n_rows(b, m) * lin->d_in);
        check_near(lin->name, got->g[m], want->g[m], n_rows(b, m) * lin->d_out);
        check_near(lin->name, got->dw.at[m], want->dw.at[m], size_of(m));
    }
    for (int i = 0; i < 2; i++)
        assert_true(fabs(got->loss[i] - want->loss[i]) <= tolerance * want->loss[i]);
}

/* A batch on the weights in use. */
static void check_batch(const struct sequences *seqs) {
    struct mal_backend *be = test_backend();
    struct made_batch *b = make_batch(seqs, true);
    bool narrow = be->takes_bf16;
    be->takes_bf16 = false;
    struct said want = listen(b);
    be->takes_bf16 = narrow;
    struct said got = listen(b);
    check_same(b, &got, &want);
    said_free(&want);
    said_free(&got);
    mal_free(b);
}

static void check_model(const struct random_model *made) {
    name = made->name;
    model = random_model_open_as(made, name, MAL_BF16);
    for (int64_t first = 0; first < model->info.n_layers; first++) {
        declare_edits("", first);
        check_batch(all_sequences[first % 3]);
    }
}

static void test_models(void **state) {
    for (size_t i = 0; i < N_RANDOM_MODELS; i++) {
        check_model(&random_models[i]);
        mal_model_close(model);
    }
}

static bool lies_behind(const struct mal_linear *a, const struct mal_linear *b) {
    size_t bytes = (size_t)(a->d_in * a->d_out) * sizeof(uint16_t);
    return (const char *)a->w + bytes == b->w &&
           (!a->bias || a->bias + a->d_out == b->bias);
}

/* With other weights in use, and then with another bias, somewhere else. */
static void check_moved(struct mal_linear *lin) {
    struct mal_backend *be = test_backend();
    size_t n = (size_t)(lin->d_in * lin->d_out), bytes = n * sizeof(uint16_t);
    uint16_t *narrow = mal_malloc(bytes), *w = mal_backend_alloc(be, bytes);
    float *other = random_floats(lin->d_out, 0.5f, 91);
    float *bias = on_device(other, lin->d_out);
    uint64_t seed = 90;
    assert_true(narrow && w);
    for (size_t i = 0; i < n; i++)
        narrow[i] = f32_to_bf16(0.3f * next_float(&seed));
    mal_backend_upload(be, w, narrow, bytes);
    lin->w = w;
    check_batch(&mixed);
    lin->w = lin->w0;
    if (lin->bias) {
        lin->bias = bias;
        check_batch(&mixed);
        lin->bias = lin->own_bias->w;
    }
    mal_backend_free(be, w);
    free_device(bias);
    mal_free(narrow);
    mal_free(other);
}

/* Queries, keys and values of one product: their weights fill whole lines. */
static void test_one_product(void **state) {
    static const struct random_model models[] = {
        {"gptj-lines", RANDOM_GPTJ, 0, 3, 16, 2, 2, 8, 20, 23, 16},
        {"bert-lines", RANDOM_BERT_LABELS, 0, 3, 32, 2, 2, 16, 20, 23, 16},
        {"qwen2-lines", RANDOM_QWEN2, 0, 3, 32, 4, 2, 8, 24, 23, 16},
        {"qwen3-lines", RANDOM_QWEN3, 0, 3, 32, 4, 2, 16, 24, 23, 16},
        {"gemma3-lines", RANDOM_GEMMA3, 0, 3, 32, 4, 2, 16, 24, 23, 16},
        {"t5-lines", RANDOM_T5, 2, 3, 16, 2, 2, 8, 20, 23, 0}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        check_model(&models[i]);
        struct mal_attention *self = &model->decoder.blocks[0].self;
        assert_true(lies_behind(&self->q, &self->k) && lies_behind(&self->k, &self->v));
        check_moved(&self->k);
        check_moved(&self->v);
        mal_model_close(model);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_models),
                                       cmocka_unit_test(test_one_product)};
    if (strncmp(test_device(), "cuda:", 5) == 0) setenv("MAL_TEST_DEVICE", "cuda:0", 1);
    return cmocka_run_group_tests_name("narrow_passes", tests, scratch_make,
                                       scratch_remove);
}
