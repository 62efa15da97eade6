/* made_training.h - what tests of training share: a small random GPT-2, facts of random
 * tokens, an editor with a network that does something, and a trainer over them.
 *
 * Lengths are such that a few facts are quick and many fill a pass. */
#ifndef MAL_TEST_MADE_TRAINING_H
#define MAL_TEST_MADE_TRAINING_H

#include "random_model.h"

#include "core/backend_impl.h"
#include "core/train/state.h"
#include "core/train/trainer_impl.h"

static const struct random_model made_sizes = {.family = RANDOM_GPT2,
                                               .layers = 3,
                                               .channels = 8,
                                               .heads = 2,
                                               .inner = 12,
                                               .vocab = 23,
                                               .context = 16};

/* Two shapes, of one of them two modules. */
static const char *const made_modules[] = {"h.1.mlp.c_proj", "h.2.mlp.c_fc",
                                           "h.2.mlp.c_proj"};

/* Of a CPU it is said that its memory is not the host's, so that all is copied, or again
 * that it is; of other devices it is true anyway. */
static inline void say_apart(struct mal_model *model, bool apart) {
    model->be->on_host = !apart && strncmp(mal_backend_name(model->be), "cpu", 3) == 0;
}

/* ---- Facts ---- */

static inline int32_t random_below(uint64_t *seed, int64_t n) {
    return (int32_t)(((double)next_float(seed) + 1) / 2 * (double)n);
}

static enum mal_model_kind made_kind = MAL_MODEL_CAUSAL; /* what facts are made for */

/* `length` tokens of which the last `n_target` predict a target; -1: no particular one.
 * An encoder-decoder's answer is a text of its own, a classifier's a class. */
static inline struct mal_example made_example(uint64_t *seed, int32_t length,
                                              int32_t n_target, bool open) {
    bool classes = made_kind == MAL_MODEL_CLASSIFIER,
         apart = made_kind != MAL_MODEL_CAUSAL;
    if (classes) n_target = 1;
    struct mal_example e = {.ids = mal_malloc((size_t)length * sizeof(int32_t)),
                            .n = length,
                            .from = apart ? 0 : length - n_target,
                            .has_decoder = made_kind == MAL_MODEL_SEQ2SEQ,
                            .target = mal_malloc((size_t)n_target * sizeof(int32_t)),
                            .n_target = n_target};
    assert_true(e.ids && e.target && e.from >= 0);
    for (int32_t i = 0; i < length; i++)
        e.ids[i] = random_below(seed, made_sizes.vocab);
    for (int32_t i = 0; i < n_target; i++)
        e.target[i] = open ? -1 : random_below(seed, classes ? 2 : made_sizes.vocab);
    return e;
}

/* Every third fact has a further phrasing, every fourth two rephrases, every fifth a
 * probe without a target. */
static inline struct mal_train_data made_data(size_t n_facts, bool probes) {
    struct mal_train_data data = {.examples =
                                      mal_calloc(5 * n_facts, sizeof *data.examples),
                                  .facts = mal_calloc(n_facts, sizeof *data.facts),
                                  .n_facts = n_facts};
    uint64_t seed = 321;
    assert_true(data.examples && data.facts);
    for (size_t i = 0; i < n_facts; i++) {
        struct mal_train_fact *f = &data.facts[i];
        int32_t target = 1 + (int32_t)(i % 3);
        f->n_edits = i % 3 == 1 ? 2 : 1;
        f->n_rephrases = i % 4 == 2 ? 2 : 1;
        f->n_probes = probes ? 1 : 0;
        f->edit = data.n_examples;
        f->rephrase = f->edit + f->n_edits;
        f->probe = f->rephrase + f->n_rephrases;
        size_t n = f->n_edits + f->n_rephrases + f->n_probes;
        for (size_t k = 0; k < n; k++) {
            bool open = f->edit + k >= f->probe && i % 5 == 3;
            data.examples[data.n_examples] =
                made_example(&seed, 6 + random_below(&seed, 8), open ? 1 : target, open);
            data.examples[data.n_examples++].source = i;
        }
    }
    return data;
}

/* Facts [first, first + n), the first rephrase of each. */
static inline struct mal_train_batch made_batch(const struct mal_train_data *data,
                                                size_t first, size_t n) {
    struct mal_train_batch batch;
    struct mal_error err = {0};
    size_t *facts = mal_malloc(n * sizeof *facts);
    for (size_t i = 0; i < n; i++)
        facts[i] = first + i;
    assert_ok(mal_train_batch_make(&batch, data, facts, n, 0, &err), &err);
    mal_free(facts);
    return batch;
}

/* ---- Editors and trainers ---- */

struct training {
    struct mal_model *model; /* borrowed */
    struct mal_editor *editor;
    struct mal_preserve *preserve;
    struct mal_train_options options;
    struct mal_trainer *trainer;
};

static inline void made_random(float *x, int64_t n, float center, float size,
                               uint64_t *seed) {
    for (int64_t i = 0; i < n; i++)
        x[i] = center + size * next_float(seed);
}

/* Far from the identity, each module with a step and a ridge of its own. Biases are such
 * that half of the pre-activations are positive and none is near 0, where the loss has a
 * kink that differences would see. */
static inline void made_network(struct mal_editor *editor) {
    uint64_t seed = 99;
    for (size_t s = 0; s < editor->n_shapes; s++) {
        struct mal_editor_shape *shape = &editor->shapes[s];
        int64_t size = shape->size, n = shape->n_modules;
        for (int64_t i = 0; i < editor->n_blocks; i++) {
            struct mal_block *b = &shape->blocks[i];
            made_random(b->a, size * editor->rank, 0, 0.3f, &seed);
            made_random(b->b, editor->rank * size, 0, 0.5f, &seed);
            for (int64_t k = 0; k < size; k++)
                b->bias[k] = next_float(&seed) < 0 ? -4 : 4;
            made_random(b->scale, n * size, 0.3f, 0.1f, &seed);
            made_random(b->shift, n * size, 0, 0.1f, &seed);
        }
        for (int64_t m = 0; m < n; m++) {
            shape->lr[m] *= 1 + 0.25f * next_float(&seed);
            shape->lamda[m] = 0.5f * next_float(&seed);
        }
    }
}

static inline void made_preserve(struct training *t) {
    enum { N_TEXTS = 5, LENGTH = 7 };
    struct mal_error err = {0};
    uint64_t seed = 17;
    struct mal_preserve_texts texts = {
        .n = N_TEXTS,
        .ids = mal_malloc(N_TEXTS * LENGTH * sizeof(int32_t)),
        .start = mal_malloc((N_TEXTS + 1) * sizeof(int32_t)),
        .from = mal_malloc(N_TEXTS * sizeof(int32_t))};
    for (int32_t i = 0; i < N_TEXTS * LENGTH; i++)
        texts.ids[i] = random_below(&seed, made_sizes.vocab);
    for (int32_t i = 0; i <= N_TEXTS; i++)
        texts.start[i] = i * LENGTH;
    for (int32_t i = 0; i < N_TEXTS; i++)
        texts.from[i] = i;
    assert_ok(mal_editor_set_preserve(t->editor, t->model, &texts, 0.5, &err), &err);
    assert_ok(mal_preserve_create(&t->preserve, t->model, t->editor, NULL, (double)NAN,
                                  NULL, &err),
              &err);
}

struct made_training {
    const struct mal_method *method;
    enum mal_loss loss;
    int64_t micro_batch, editor_batch; /* 0: 4, 7 */
    bool preserve, identity;           /* no blocks */
    const char *const *modules;        /* three; NULL: made_modules */
};

static inline struct training made_training(struct mal_model *model,
                                            const struct made_training *how) {
    struct training t = {.model = model};
    struct mal_error err = {0};
    /* MEND's shift is a sum over all tokens, MALMEN's a ridge regression's. */
    double lr = how->method == &mal_method_mend ? 1e-3 : 0.02;
    const char *const *modules = how->modules ? how->modules : made_modules;
    assert_ok(mal_editor_create(&t.editor, how->method, model, modules, 3, 4,
                                how->identity ? 0 : 2, lr, 5, &err),
              &err);
    t.editor->loss = how->loss;
    t.editor->micro_batch = how->micro_batch ? how->micro_batch : 4;
    made_network(t.editor);
    assert_ok(mal_editor_bind(t.editor, model, &err), &err);
    if (how->preserve) made_preserve(&t);
    t.options = (struct mal_train_options){.loc_coef = 0.7,
                                           .max_norm = 1,
                                           .editor_batch =
                                               how->editor_batch ? how->editor_batch : 7,
                                           .preserve = t.preserve};
    assert_ok(mal_trainer_create(&t.trainer, model, t.editor, &t.options, &err), &err);
    return t;
}

static inline void training_finish(struct training *t) {
    mal_trainer_destroy(t->trainer);
    mal_preserve_destroy(t->preserve);
    mal_editor_close(t->editor);
}

static const struct mal_train_rates made_rates = {.meta = 1e-2, .lr = 1e-3};

/* One step over facts [first, first + n). */
static inline struct mal_train_report
made_step(struct training *t, const struct mal_train_data *data, size_t first, size_t n,
          const struct mal_train_rates *rates, const struct mal_train_watch *watch) {
    struct mal_train_report report;
    struct mal_error err = {0};
    struct mal_train_batch batch = made_batch(data, first, n);
    assert_ok(mal_trainer_step(t->trainer, &batch, rates, watch, &report, &err), &err);
    mal_train_batch_finish(&batch);
    return report;
}

/* ---- Gradients as a step tells them ---- */

enum { MAX_GRADS = 64 };

struct grads {
    size_t n;
    char names[MAX_GRADS][128];
    float *at[MAX_GRADS];
    int64_t sizes[MAX_GRADS];
    size_t n_shifts;
};

/* Of a watch: the gradients to the host; shifts are counted. */
static inline void keep_grads(void *arg, const char *name, int64_t n, const float *data) {
    struct grads *grads = arg;
    if (strncmp(name, "shift.", 6) == 0) {
        grads->n_shifts++;
        return;
    }
    assert_true(strncmp(name, "grad.", 5) == 0 && grads->n < MAX_GRADS);
    snprintf(grads->names[grads->n], sizeof grads->names[0], "%s", name + 5);
    float *copy = grads->at[grads->n] = mal_malloc((size_t)n * sizeof *copy);
    from_device(copy, data, n);
    grads->sizes[grads->n++] = n;
}

static inline void grads_free(struct grads *grads) {
    for (size_t i = 0; i < grads->n; i++)
        mal_free(grads->at[i]);
}

static inline double grads_norm(const struct grads *grads) {
    double sum = 0;
    for (size_t i = 0; i < grads->n; i++) {
        for (int64_t k = 0; k < grads->sizes[i]; k++)
            sum += (double)grads->at[i][k] * (double)grads->at[i][k];
    }
    return sqrt(sum);
}

/* ---- All there is of a trainer ---- */

struct bytes {
    void *data; /* owned */
    size_t n;
};

static inline struct bytes read_bytes(const char *path) {
    struct bytes bytes = {.data = mal_malloc(1 << 20)};
    FILE *file = fopen(path, "rb");
    assert_true(file && bytes.data);
    bytes.n = fread(bytes.data, 1, 1 << 20, file);
    assert_true(bytes.n > 0 && bytes.n < 1 << 20);
    assert_int_equal(fclose(file), 0);
    return bytes;
}

/* Parameters, statistics, moments and steps taken, as its file has them; the model reads
 * its base weights. */
static inline struct bytes state_of(const struct training *t) {
    static const struct mal_train_position nowhere = {.best = (double)NAN};
    struct mal_error err = {0};
    const char *path = scratch_path("state_of");
    for (size_t m = 0; m < mal_model_n_edits(t->model); m++)
        assert_ptr_equal(mal_model_edit(t->model, m)->w, mal_model_edit(t->model, m)->w0);
    assert_ok(mal_train_state_save(t->trainer, path, &nowhere, "{}", &err), &err);
    return read_bytes(path);
}

static inline bool same_bytes(const struct bytes *a, const struct bytes *b) {
    return a->n == b->n && memcmp(a->data, b->data, a->n) == 0;
}

/* And it is freed. */
static inline void expect_state(const struct training *t, const struct bytes *want) {
    struct bytes now = state_of(t);
    assert_true(same_bytes(&now, want));
    mal_free(now.data);
}

static inline struct bytes editor_bytes(const struct mal_editor *editor) {
    struct mal_error err = {0};
    const char *path = scratch_path("editor_of");
    assert_ok(mal_editor_save(editor, path, &err), &err);
    return read_bytes(path);
}

static inline void expect_same_editor(const struct mal_editor *a,
                                      const struct mal_editor *b) {
    struct bytes x = editor_bytes(a), y = editor_bytes(b);
    assert_true(same_bytes(&x, &y));
    mal_free(x.data);
    mal_free(y.data);
}

#endif
