/* fact_set.c - facts from rows, their texts, and their values from the store. */
#include "daemon/engine/fact_set.h"

#include <jansson.h>
#include <string.h>

#include "core/alloc.h"
#include "core/answers.h"
#include "core/editor/edit_rows.h"
#include "core/json.h"
#include "daemon/engine/history.h"
#include "proto/wire.h"

/* ---- Making ---- */

static bool read_verified(const char *verified_json, struct mal_set_fact *out,
                          struct mal_error *err) {
    json_t *verified = NULL;
    if (!verified_json) return true;
    if (!mal_json_read(&verified, verified_json, "a fact's verification", err))
        return false;
    out->measured = true;
    out->decoded = json_is_true(json_object_get(verified, "decoded"));
    const json_t *certain = json_object_get(verified, "certain");
    out->certain = certain ? json_is_true(certain) : out->decoded;
    out->rounds = (int32_t)json_integer_value(json_object_get(verified, "rounds"));
    json_decref(verified);
    return true;
}

static bool cut_texts(struct mal_fact_set *set, const struct mal_model *model,
                      const struct mal_tokenizer *tok, struct mal_error *err) {
    if (!mal_examples_of_facts(model, tok, set->facts, set->n, &set->texts, &set->n_texts,
                               err))
        return false;
    for (size_t i = 0, text = 0; i < set->n; i++) {
        set->of[i].first_text = text;
        set->of[i].n_texts = 1 + set->facts[i].n_prompts;
        text += set->of[i].n_texts;
    }
    return true;
}

static bool read_row(struct mal_fact_set *set, const struct mal_fact_row *row,
                     struct mal_error *err) {
    struct mal_fact *fact = &set->facts[set->n];
    if (!mal_decode_fact(row->fact_json, fact, err))
        return mal_fail_wrap(err, "stored fact %s", row->id);
    struct mal_set_fact *of = &set->of[set->n++];
    *of = (struct mal_set_fact){
        .seq = row->seq, .version = row->version, .pinned = row->pinned};
    if (!read_verified(row->verified_json, of, err)) return false;
    mal_free(fact->id);
    fact->id = mal_strdup(row->id);
    return fact->id || mal_fail(err, MAL_NO_MEMORY, "facts");
}

bool mal_fact_set_of_rows(struct mal_fact_set *out, const struct mal_model *model,
                          const struct mal_tokenizer *tok,
                          const struct mal_fact_row *rows, size_t n,
                          struct mal_error *err) {
    struct mal_fact_set set = {.facts = mal_calloc(n + 1, sizeof *set.facts),
                               .of = mal_calloc(n + 1, sizeof *set.of)};
    bool ok = (set.facts && set.of) || mal_fail(err, MAL_NO_MEMORY, "facts");
    for (size_t i = 0; ok && i < n; i++)
        ok = read_row(&set, &rows[i], err);
    ok = ok && (n == 0 || cut_texts(&set, model, tok, err));
    if (!ok) mal_fact_set_finish(&set);
    if (ok) *out = set;
    return ok;
}

bool mal_fact_set_of_facts(struct mal_fact_set *out, const struct mal_model *model,
                           const struct mal_tokenizer *tok, const struct mal_fact *facts,
                           const int64_t *seqs, size_t n, struct mal_error *err) {
    struct mal_fact_set set = {.facts = mal_calloc(n + 1, sizeof *set.facts),
                               .of = mal_calloc(n + 1, sizeof *set.of),
                               .n = n,
                               .borrowed = true};
    bool ok = (set.facts && set.of) || mal_fail(err, MAL_NO_MEMORY, "facts");
    if (ok) memcpy(set.facts, facts, n * sizeof *facts);
    for (size_t i = 0; ok && seqs && i < n; i++)
        set.of[i].seq = seqs[i];
    ok = ok && (n == 0 || cut_texts(&set, model, tok, err));
    if (!ok) mal_fact_set_finish(&set);
    if (ok) *out = set;
    return ok;
}

void mal_fact_set_finish(struct mal_fact_set *set) {
    for (size_t i = 0; set->of && i < set->n; i++)
        mal_free(set->of[i].values);
    mal_free(set->of);
    if (set->borrowed) {
        mal_free(set->facts);
    } else {
        mal_facts_free(set->facts, set->n);
    }
    mal_examples_free(set->texts, set->n_texts);
    mal_examples_free(set->held, set->n_held);
    *set = (struct mal_fact_set){0};
}

/* ---- The base model's answers ---- */

static bool hold_tick(void *arg) {
    const struct mal_progress *progress = arg;
    return !progress || !progress->tick ||
           progress->tick(progress->arg, MAL_STAGE_FORWARD, 0, 0);
}

/* Every prompt of a fact as an unrelated one of a fact of its own; *probes (n_texts). */
static struct mal_fact ask(const struct mal_fact *fact, struct mal_probe *probes,
                           size_t n_texts) {
    for (size_t t = 0; t < n_texts; t++)
        probes[t] = (struct mal_probe){.prompt = (char *)mal_fact_text(fact, t)};
    return (struct mal_fact){
        .join = fact->join, .unrelated = probes, .n_unrelated = n_texts};
}

/* One that is nothing, or too much, to hold is left out. */
static bool hold_answer(struct mal_fact_set *set, size_t i, const struct mal_model *model,
                        const struct mal_tokenizer *tok, const char *prompt,
                        const char *answer, struct mal_error *err) {
    struct mal_example *held = &set->held[set->n_held];
    struct mal_error own = {0};
    if (!mal_example_init(held, model, tok, prompt, answer, set->facts[i].join, &own)) {
        if (own.status != MAL_NO_MEMORY) return true;
        *err = own;
        return false;
    }
    held->source = i;
    set->n_held++;
    return true;
}

static bool hold_fact(struct mal_fact_set *set, size_t i, struct mal_model *model,
                      const struct mal_tokenizer *tok,
                      const struct mal_progress *progress, struct mal_error *err) {
    const struct mal_fact *fact = &set->facts[i];
    size_t n = set->of[i].n_texts;
    struct mal_answers answers = {0};
    struct mal_probe *probes = mal_calloc(n, sizeof *probes);
    if (!probes) return mal_fail(err, MAL_NO_MEMORY, "pinned facts");
    struct mal_fact asked = ask(fact, probes, n);
    bool ok = mal_answers_make(model, tok, &asked, 1, n, hold_tick, (void *)progress,
                               &answers, err);
    for (size_t t = 0; ok && t < n; t++)
        ok = hold_answer(set, i, model, tok, probes[t].prompt, answers.gens[t].text, err);
    mal_answers_finish(&answers);
    mal_free(probes);
    return ok;
}

bool mal_fact_set_hold(struct mal_fact_set *set, struct mal_model *model,
                       const struct mal_tokenizer *tok, bool all,
                       const struct mal_progress *progress, struct mal_error *err) {
    if (mal_model_info(model)->kind == MAL_MODEL_CLASSIFIER) return true;
    set->held = mal_calloc(set->n_texts + 1, sizeof *set->held);
    if (!set->held) return mal_fail(err, MAL_NO_MEMORY, "pinned facts");
    for (size_t i = 0; i < set->n; i++) {
        if (!all && !set->of[i].pinned) continue;
        if (!hold_fact(set, i, model, tok, progress, err)) return false;
    }
    return true;
}

/* ---- Values ---- */

/* Of the first texts of a fact. */
static size_t n_values(const struct mal_fact_set *set, const struct mal_joint *joint,
                       size_t i, size_t n_texts) {
    size_t n = 0, first = set->of[i].first_text;
    for (size_t t = first; t < first + n_texts; t++)
        n += mal_joint_n_values(joint, &set->texts[t]);
    return n;
}

size_t mal_fact_set_n_values(const struct mal_fact_set *set,
                             const struct mal_joint *joint, size_t i) {
    return n_values(set, joint, i, set->of[i].n_texts);
}

/* Zeros. */
static bool clear(struct mal_fact_set *set, size_t i, const struct mal_joint *joint,
                  struct mal_error *err) {
    struct mal_set_fact *of = &set->of[i];
    of->n_values = mal_fact_set_n_values(set, joint, i);
    of->values = mal_calloc(of->n_values, sizeof *of->values);
    return of->values || mal_fail(err, MAL_NO_MEMORY, "values of a fact");
}

bool mal_fact_set_load(struct mal_fact_set *set, size_t i,
                       const struct mal_value_source *source, struct mal_error *err) {
    struct mal_set_fact *of = &set->of[i];
    void *data = NULL;
    uint64_t bytes = 0;
    char *sha256 = NULL;
    if (of->values) return true;
    if (of->pinned) return clear(set, i, source->joint, err);
    of->n_values = mal_fact_set_n_values(set, source->joint, i);
    if (!mal_store_read_values(source->store, of->seq, source->path, source->n_path,
                               &data, &bytes, &sha256, err))
        return false;
    char hex[MAL_HASH_HEX] = "";
    if (data) {
        struct mal_hash hash = mal_hash_of(data, bytes);
        mal_hash_hex(&hash, hex);
    }
    bool ok = (data && !strcmp(hex, sha256)) ||
              mal_fail(err, MAL_CORRUPT, "missing, or of another hash");
    ok = ok && mal_history_unpack_values(&data, bytes, of->n_values, err);
    mal_free(sha256);
    if (!ok) {
        mal_free(data);
        return mal_fail_wrap(err, "fact %s: the stored values", set->facts[i].id);
    }
    of->values = data;
    return true;
}

float *mal_fact_set_values(const struct mal_fact_set *set, const struct mal_joint *joint,
                           size_t text) {
    size_t i = set->texts[text].source;
    return set->of[i].values + n_values(set, joint, i, text - set->of[i].first_text);
}
