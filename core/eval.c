/* eval.c - teacher-forced scores of prompts with targets. A target is decoded greedily
 * exactly when each of its tokens is the argmax, so no generation is needed for that. */
#include "core/eval.h"

#include <math.h>
#include <stdio.h>

#include "core/alloc.h"

enum {
    SLICE_TOKENS = 1024
}; /* input tokens of one pass: tens of milliseconds on a CPU */

void mal_scores_free(struct mal_score *scores, size_t n) {
    if (!scores) return;
    for (size_t i = 0; i < n; i++)
        mal_free(scores[i].tokens);
    mal_free(scores);
}

static bool fill_score(const struct mal_example *e, const float *logprob,
                       const int32_t *rank, const int32_t *argmax, struct mal_score *out,
                       struct mal_error *err) {
    out->tokens = mal_calloc((size_t)e->n_target, sizeof *out->tokens);
    if (!out->tokens) return mal_fail(err, MAL_NO_MEMORY, "scores");
    out->n_tokens = (size_t)e->n_target;
    int32_t right = 0;
    for (int32_t t = 0; t < e->n_target; t++) {
        out->tokens[t] = (struct mal_token_score){.id = e->target[t],
                                                  .logprob = logprob[t],
                                                  .rank = rank[t],
                                                  .argmax = argmax[t]};
        out->logprob += (double)logprob[t];
        right += argmax[t] == e->target[t];
    }
    out->share = (double)right / e->n_target;
    out->correct = right == e->n_target;
    return true;
}

/* From the logits of both classes, so that it is as near to 0 or 1 as they say. */
static void fill_supports(const float *logits, size_t n, struct mal_score *out) {
    for (size_t i = 0; i < n; i++)
        out[i].supports =
            1 / (1 + exp((double)logits[2 * i] - (double)logits[2 * i + 1]));
}

static bool score_slice(struct mal_model *model, const struct mal_example *examples,
                        size_t n, struct mal_score *out, struct mal_error *err) {
    struct mal_packed packed = {0};
    if (!mal_examples_pack(examples, NULL, n, &packed, err)) return false;
    bool classes = mal_model_info(model)->kind == MAL_MODEL_CLASSIFIER;
    size_t rows = (size_t)packed.n_labels;
    float *logprob = mal_malloc(3 * rows * sizeof *logprob);
    int32_t *rank = mal_malloc(2 * rows * sizeof *rank);
    bool ok = (logprob && rank) || mal_fail(err, MAL_NO_MEMORY, "scores");
    struct mal_row_scores wanted = {.logprob = logprob,
                                    .rank = rank,
                                    .argmax = rank + rows,
                                    .logits = classes ? logprob + rows : NULL};
    ok = ok && mal_model_score(model, &packed.batch, &wanted, err);
    if (ok && classes) fill_supports(wanted.logits, n, out);
    size_t row = 0;
    for (size_t i = 0; ok && i < n; i++) {
        ok = fill_score(&examples[i], logprob + row, rank + row, rank + rows + row,
                        &out[i], err);
        row += (size_t)examples[i].n_target;
    }
    mal_free(logprob);
    mal_free(rank);
    mal_packed_finish(&packed);
    return ok;
}

bool mal_score_examples(struct mal_model *model, const struct mal_example *examples,
                        size_t n, bool (*tick)(void *), void *tick_arg,
                        struct mal_score *out, struct mal_error *err) {
    for (size_t i = 0; i < n;) {
        size_t end = i;
        int64_t tokens = 0;
        while (end < n && (end == i || tokens + examples[end].n <= SLICE_TOKENS)) {
            tokens += examples[end++].n;
        }
        if (!score_slice(model, examples + i, end - i, out + i, err)) return false;
        if (tick && !tick(tick_arg)) return mal_fail(err, MAL_CANCELLED, "cancelled");
        i = end;
    }
    return true;
}

bool mal_score_items(struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_score_item *items, size_t n, const char *pointer,
                     bool (*tick)(void *), void *tick_arg, struct mal_score **out,
                     struct mal_error *err) {
    struct mal_example *examples = mal_calloc(n, sizeof *examples);
    struct mal_score *scores = mal_calloc(n, sizeof *scores);
    bool ok = (examples && scores) || mal_fail(err, MAL_NO_MEMORY, "scores");
    for (size_t i = 0; ok && i < n; i++) {
        struct mal_error own = {0};
        ok = items[i].target
                 ? mal_example_init(&examples[i], model, tok, items[i].prompt,
                                    items[i].target, items[i].join, &own)
                 : mal_example_open(&examples[i], model, tok, items[i].prompt, &own);
        if (ok) continue;
        char at[256];
        snprintf(at, sizeof at, "%s/%zu%s", pointer, i, own.pointer);
        mal_fail_at(err, own.status, at, "%s", own.text);
    }
    ok = ok && mal_score_examples(model, examples, n, tick, tick_arg, scores, err);
    mal_examples_free(examples, n);
    if (!ok) {
        mal_scores_free(scores, n);
        return false;
    }
    *out = scores;
    return true;
}

/* ---- Measures of facts ---- */

size_t mal_fact_n_items(const struct mal_fact *fact) {
    size_t n = 1 + fact->n_rephrases;
    for (size_t i = 0; i < fact->n_unrelated; i++)
        n += fact->unrelated[i].target != NULL;
    return n;
}

static void fill_items(const struct mal_fact *fact, struct mal_score_item *items) {
    *items++ = (struct mal_score_item){fact->prompt, fact->target, fact->join};
    for (size_t i = 0; i < fact->n_rephrases; i++) {
        *items++ = (struct mal_score_item){fact->rephrases[i], fact->target, fact->join};
    }
    for (size_t i = 0; i < fact->n_unrelated; i++) {
        if (!fact->unrelated[i].target) continue;
        *items++ = (struct mal_score_item){fact->unrelated[i].prompt,
                                           fact->unrelated[i].target, fact->join};
    }
}

struct mean {
    double sum;
    size_t n;
};

static void add(struct mean *mean, double x) {
    mean->sum += x;
    mean->n++;
}

static double value(const struct mean *mean) {
    return mean->n ? mean->sum / (double)mean->n : (double)NAN;
}

/* The mean over items [from, to), so that each fact counts once. */
static void add_items(struct mean *tf, struct mean *decoded,
                      const struct mal_score *scores, size_t from, size_t to) {
    struct mean share = {0}, exact = {0};
    for (size_t i = from; i < to; i++) {
        add(&share, scores[i].share);
        add(&exact, scores[i].correct ? 1 : 0);
    }
    if (share.n == 0) return;
    add(tf, value(&share));
    add(decoded, value(&exact));
}

void mal_measures_of(const struct mal_fact *facts, size_t n_facts,
                     const struct mal_score *scores, struct mal_measures *out) {
    struct mean tf[3] = {{0}}, decoded[3] = {{0}};
    for (size_t i = 0; i < n_facts; i++) {
        size_t unrelated = 1 + facts[i].n_rephrases, n = mal_fact_n_items(&facts[i]);
        add_items(&tf[0], &decoded[0], scores, 0, 1);
        add_items(&tf[1], &decoded[1], scores, 1, unrelated);
        add_items(&tf[2], &decoded[2], scores, unrelated, n);
        scores += n;
    }
    *out = (struct mal_measures){.n_facts = n_facts,
                                 .tf_es = value(&tf[0]),
                                 .tf_gs = value(&tf[1]),
                                 .tf_ls = value(&tf[2]),
                                 .dec_es = value(&decoded[0]),
                                 .dec_gs = value(&decoded[1]),
                                 .dec_ls = value(&decoded[2]),
                                 .agreement = (double)NAN};
}

bool mal_score_facts(struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_fact *facts, size_t n_facts, bool (*tick)(void *),
                     void *tick_arg, struct mal_score **out, size_t *out_n,
                     struct mal_error *err) {
    size_t n = 0;
    for (size_t i = 0; i < n_facts; i++)
        n += mal_fact_n_items(&facts[i]);
    struct mal_score_item *items = mal_calloc(n, sizeof *items);
    if (!items) return mal_fail(err, MAL_NO_MEMORY, "score items");
    size_t at = 0;
    for (size_t i = 0; i < n_facts; i++) {
        fill_items(&facts[i], items + at);
        at += mal_fact_n_items(&facts[i]);
    }
    bool ok = mal_score_items(model, tok, items, n, "/items", tick, tick_arg, out, err);
    mal_free(items);
    if (ok) *out_n = n;
    return ok;
}
