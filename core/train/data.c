/* data.c - facts tokenised once, and drawn from for each step. */
#include "core/train/data.h"

#include "core/alloc.h"
#include "core/random.h"

/* ---- Tokens ---- */

static size_t n_examples_of(const struct mal_fact *fact) {
    size_t rephrases = fact->n_rephrases ? fact->n_rephrases : 1;
    return 1 + fact->n_prompts + rephrases + fact->n_unrelated;
}

struct maker {
    struct mal_train_data *data;
    const struct mal_tokenizer *tok;
    const struct mal_model *model;
    size_t fact;
};

/* A prompt without a target is open: it predicts no particular token. */
static bool add(struct maker *maker, const char *prompt, const char *target,
                const char *join, const char *field, size_t i, struct mal_error *err) {
    struct mal_example *e = &maker->data->examples[maker->data->n_examples];
    struct mal_error own = {0};
    bool ok =
        target ? mal_example_init(e, maker->model, maker->tok, prompt, target, join, &own)
               : mal_example_open(e, maker->model, maker->tok, prompt, &own);
    if (!ok) {
        return mal_fail(err, own.status, "fact %zu, %s %zu: %s", maker->fact, field, i,
                        own.text);
    }
    e->source = maker->fact;
    maker->data->n_examples++;
    return true;
}

static bool add_fact(struct maker *maker, const struct mal_fact *fact,
                     struct mal_error *err) {
    struct mal_train_data *data = maker->data;
    struct mal_train_fact *out = &data->facts[data->n_facts];
    out->edit = data->n_examples;
    out->n_edits = 1 + fact->n_prompts;
    if (!add(maker, fact->prompt, fact->target, fact->join, "prompt", 0, err))
        return false;
    for (size_t i = 0; i < fact->n_prompts; i++) {
        if (!add(maker, fact->prompts[i], fact->target, fact->join, "prompts", i, err))
            return false;
    }
    out->rephrase = data->n_examples;
    out->n_rephrases = fact->n_rephrases ? fact->n_rephrases : 1;
    for (size_t i = 0; i < out->n_rephrases; i++) {
        const char *text = fact->n_rephrases ? fact->rephrases[i] : fact->prompt;
        if (!add(maker, text, fact->target, fact->join, "rephrase", i, err)) return false;
    }
    out->probe = data->n_examples;
    out->n_probes = fact->n_unrelated;
    for (size_t i = 0; i < fact->n_unrelated; i++) {
        const struct mal_probe *probe = &fact->unrelated[i];
        if (!add(maker, probe->prompt, probe->target, fact->join, "unrelated prompt", i,
                 err)) {
            return false;
        }
    }
    data->n_facts++;
    return true;
}

bool mal_train_data_make(struct mal_train_data *out, const struct mal_model *model,
                         const struct mal_tokenizer *tok, const struct mal_fact *facts,
                         size_t n_facts, struct mal_error *err) {
    struct mal_train_data data = {0};
    struct maker maker = {.data = &data, .tok = tok, .model = model};
    size_t n = 0;
    for (size_t i = 0; i < n_facts; i++)
        n += n_examples_of(&facts[i]);
    data.examples = mal_calloc(n, sizeof *data.examples);
    data.facts = mal_calloc(n_facts, sizeof *data.facts);
    bool ok = (data.examples && data.facts) || mal_fail(err, MAL_NO_MEMORY, "facts");
    for (; ok && maker.fact < n_facts; maker.fact++)
        ok = add_fact(&maker, &facts[maker.fact], err);
    if (!ok) {
        mal_train_data_finish(&data);
        return false;
    }
    *out = data;
    return true;
}

void mal_train_data_finish(struct mal_train_data *data) {
    mal_examples_free(data->examples, data->n_examples);
    mal_free(data->facts);
    *data = (struct mal_train_data){0};
}

/* ---- Batches ---- */

static void draw(struct mal_train_batch *batch, const struct mal_train_data *data,
                 size_t fact, uint64_t *state) {
    const struct mal_train_fact *f = &data->facts[fact];
    size_t rephrase = 0, probe = 0;
    if (*state) {
        rephrase = mal_random_below(state, f->n_rephrases);
        probe = f->n_probes ? mal_random_below(state, f->n_probes) : 0;
    }
    for (size_t i = 0; i < f->n_edits; i++)
        batch->edits[batch->n_edits++] = data->examples[f->edit + i];
    batch->rephrases[batch->n_rephrases++] = data->examples[f->rephrase + rephrase];
    if (f->n_probes) batch->probes[batch->n_probes++] = data->examples[f->probe + probe];
}

bool mal_train_batch_make(struct mal_train_batch *out, const struct mal_train_data *data,
                          const size_t *facts, size_t n_facts, uint64_t seed,
                          struct mal_error *err) {
    struct mal_train_batch batch = {.n_facts = n_facts};
    size_t n_edits = 0;
    for (size_t i = 0; i < n_facts; i++)
        n_edits += data->facts[facts[i]].n_edits;
    batch.edits = mal_calloc(n_edits, sizeof *batch.edits);
    batch.rephrases = mal_calloc(n_facts, sizeof *batch.rephrases);
    batch.probes = mal_calloc(n_facts, sizeof *batch.probes);
    if (!batch.edits || !batch.rephrases || !batch.probes) {
        mal_train_batch_finish(&batch);
        return mal_fail(err, MAL_NO_MEMORY, "batch of %zu facts", n_facts);
    }
    for (size_t i = 0; i < n_facts; i++)
        draw(&batch, data, facts[i], &seed);
    *out = batch;
    return true;
}

void mal_train_batch_finish(struct mal_train_batch *batch) {
    mal_free(batch->edits);
    mal_free(batch->rephrases);
    mal_free(batch->probes);
    *batch = (struct mal_train_batch){0};
}
