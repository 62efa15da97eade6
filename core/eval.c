/* eval.c - teacher-forced scores of prompts with targets. A target is decoded greedily
 * exactly when each of its tokens is the argmax, so no generation is needed for that. */
#include "core/eval.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"

/* Input tokens of one pass, times the device's breadth: tens of milliseconds. */
enum { SLICE_TOKENS = 512 };

static int64_t slice_tokens(const struct mal_model *model) {
    return SLICE_TOKENS * mal_backend_breadth(mal_model_backend(model));
}

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

static bool score_slice(struct mal_model *model, struct mal_trunk *trunk,
                        const struct mal_example *examples, size_t n,
                        struct mal_score *out, struct mal_error *err) {
    struct mal_packed packed = {0};
    if (!mal_examples_pack(examples, NULL, n, &packed, err)) return false;
    mal_trunk_begin(trunk, examples, NULL, n, &packed.batch);
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
    if (ok) mal_trunk_end(trunk, examples, NULL, &packed.batch);
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

bool mal_score_examples(struct mal_model *model, struct mal_trunk *trunk,
                        const struct mal_example *examples, size_t n,
                        bool (*tick)(void *), void *tick_arg, struct mal_score *out,
                        struct mal_error *err) {
    int64_t most = slice_tokens(model);
    for (size_t i = 0; i < n;) {
        size_t end = i;
        int64_t tokens = 0;
        while (end < n && (end == i || tokens + examples[end].n <= most)) {
            tokens += examples[end++].n;
        }
        if (!score_slice(model, trunk, examples + i, end - i, out + i, err)) return false;
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
    ok = ok && mal_score_examples(model, NULL, examples, n, tick, tick_arg, scores, err);
    mal_examples_free(examples, n);
    if (!ok) {
        mal_scores_free(scores, n);
        return false;
    }
    *out = scores;
    return true;
}

/* ---- Facts ---- */

size_t mal_fact_n_items(const struct mal_fact *fact) {
    size_t n = 1 + fact->n_rephrases;
    for (size_t i = 0; i < fact->n_unrelated; i++)
        n += fact->unrelated[i].target != NULL;
    return n;
}

/* An unrelated prompt without a target counts here, and is no item. */
static bool item_at(const struct mal_fact *fact, size_t i, struct mal_score_item *out) {
    *out = (struct mal_score_item){fact->prompt, fact->target, fact->join};
    if (i > fact->n_rephrases) {
        const struct mal_probe *probe = &fact->unrelated[i - 1 - fact->n_rephrases];
        out->prompt = probe->prompt;
        out->target = probe->target;
    } else if (i > 0) {
        out->prompt = fact->rephrases[i - 1];
    }
    return out->target != NULL;
}

static bool next_item(struct mal_scoring *s, struct mal_score_item *out) {
    while (s->fact < s->n_facts) {
        const struct mal_fact *fact = &s->facts[s->fact];
        if (s->item > fact->n_rephrases + fact->n_unrelated) {
            s->fact++;
            s->item = 0;
        } else if (s->item == 0 && s->known && s->known[s->fact].tokens) {
            s->item++;
        } else if (item_at(fact, s->item++, out)) {
            return true;
        }
    }
    return false;
}

static bool add_example(struct mal_scoring *s, const struct mal_model *model,
                        const struct mal_tokenizer *tok,
                        const struct mal_score_item *item, struct mal_error *err) {
    if (s->n == s->room) {
        size_t room = 2 * s->room + 16;
        struct mal_example *examples = mal_realloc(s->examples, room * sizeof *examples);
        if (!examples) return mal_fail(err, MAL_NO_MEMORY, "scores");
        s->examples = examples;
        s->room = room;
    }
    if (!mal_example_init(&s->examples[s->n], model, tok, item->prompt, item->target,
                          item->join, err))
        return false;
    s->n++;
    return true;
}

/* Tokenizes up to the item that is too much for the slice, which stays for the next. */
static bool fill_slice(struct mal_scoring *s, const struct mal_model *model,
                       const struct mal_tokenizer *tok, size_t *out_n,
                       struct mal_error *err) {
    int64_t tokens = s->n > 0 ? s->examples[0].n : 0, most = slice_tokens(model);
    struct mal_score_item item;
    while (tokens <= most && next_item(s, &item)) {
        if (!add_example(s, model, tok, &item, err)) return false;
        tokens += s->examples[s->n - 1].n;
    }
    *out_n = tokens > most && s->n > 1 ? s->n - 1 : s->n;
    return true;
}

static void drop_examples(struct mal_scoring *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        mal_example_finish(&s->examples[i]);
    for (size_t i = n; i < s->n; i++)
        s->examples[i - n] = s->examples[i];
    s->n -= n;
}

bool mal_scoring_next(struct mal_scoring *s, struct mal_model *model,
                      const struct mal_tokenizer *tok, struct mal_score **out,
                      size_t *out_n, struct mal_error *err) {
    size_t n = 0;
    *out_n = 0;
    if (!fill_slice(s, model, tok, &n, err)) return false;
    if (n == 0) return true;
    struct mal_score *scores = mal_calloc(n, sizeof *scores);
    bool ok = (scores || mal_fail(err, MAL_NO_MEMORY, "scores")) &&
              score_slice(model, NULL, s->examples, n, scores, err);
    drop_examples(s, n);
    if (!ok) {
        mal_scores_free(scores, n);
        return false;
    }
    *out = scores;
    *out_n = n;
    return true;
}

void mal_scoring_finish(struct mal_scoring *s) {
    drop_examples(s, s->n);
    mal_free(s->examples);
    *s = (struct mal_scoring){0};
}

/* Into those of to[0 .. n) that are not there yet. */
static bool score_all(struct mal_scoring *s, struct mal_model *model,
                      const struct mal_tokenizer *tok, bool (*tick)(void *),
                      void *tick_arg, struct mal_score *to, struct mal_error *err) {
    struct mal_score *slice;
    size_t n;
    while (true) {
        if (!mal_scoring_next(s, model, tok, &slice, &n, err)) return false;
        if (n == 0) return true;
        for (size_t i = 0; i < n; i++) {
            while (to->tokens)
                to++;
            *to = slice[i];
        }
        mal_free(slice);
        if (tick && !tick(tick_arg)) return mal_fail(err, MAL_CANCELLED, "cancelled");
    }
}

bool mal_score_facts(struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_fact *facts, size_t n_facts,
                     struct mal_score *known, bool (*tick)(void *), void *tick_arg,
                     struct mal_score **out, size_t *out_n, struct mal_error *err) {
    struct mal_scoring scoring = {.facts = facts, .n_facts = n_facts, .known = known};
    size_t n = 0;
    for (size_t i = 0; i < n_facts; i++)
        n += mal_fact_n_items(&facts[i]);
    struct mal_score *scores = mal_calloc(n, sizeof *scores), *at = scores;
    for (size_t i = 0; scores && known && i < n_facts; i++) {
        *at = known[i];
        at += mal_fact_n_items(&facts[i]);
    }
    bool ok = (scores || mal_fail(err, MAL_NO_MEMORY, "scores")) &&
              score_all(&scoring, model, tok, tick, tick_arg, scores, err);
    mal_scoring_finish(&scoring);
    for (size_t i = 0; known && i < n_facts; i++) {
        if (!scores) mal_free(known[i].tokens);
        known[i].tokens = NULL;
    }
    if (!ok) {
        mal_scores_free(scores, n);
        return false;
    }
    *out = scores;
    *out_n = n;
    return true;
}

/* ---- Measures ---- */

static void add(struct mal_mean *mean, double x) {
    mean->sum += x;
    mean->n++;
}

static double value(const struct mal_mean *mean) {
    return mean->n ? mean->sum / (double)mean->n : (double)NAN;
}

/* The mean over the items of one kind, so that each fact counts once. */
static void end_kind(struct mal_measuring *m, int kind) {
    add(&m->tf[kind], value(&m->share));
    add(&m->decoded[kind], value(&m->exact));
    m->share = m->exact = (struct mal_mean){0};
}

void mal_measuring_add(struct mal_measuring *m, const struct mal_score *scores,
                       size_t n) {
    for (size_t i = 0; i < n; i++) {
        const struct mal_fact *fact = &m->facts[m->fact];
        if (m->item == 0) m->n_items = mal_fact_n_items(fact);
        size_t ends[] = {1, 1 + fact->n_rephrases, m->n_items};
        int kind = m->item < ends[0] ? 0 : m->item < ends[1] ? 1 : 2;
        add(&m->share, scores[i].share);
        add(&m->exact, scores[i].correct ? 1 : 0);
        m->item++;
        if (m->item == ends[kind]) end_kind(m, kind);
        if (m->item < m->n_items) continue;
        m->fact++;
        m->item = 0;
    }
}

void mal_measuring_end(const struct mal_measuring *m, struct mal_measures *out) {
    *out = (struct mal_measures){.n_facts = m->n_facts,
                                 .tf_es = value(&m->tf[0]),
                                 .tf_gs = value(&m->tf[1]),
                                 .tf_ls = value(&m->tf[2]),
                                 .dec_es = value(&m->decoded[0]),
                                 .dec_gs = value(&m->decoded[1]),
                                 .dec_ls = value(&m->decoded[2]),
                                 .agreement = (double)NAN};
}

void mal_measures_of(const struct mal_fact *facts, size_t n_facts,
                     const struct mal_score *scores, struct mal_measures *out) {
    struct mal_measuring measuring = {.facts = facts, .n_facts = n_facts};
    size_t n = 0;
    for (size_t i = 0; i < n_facts; i++)
        n += mal_fact_n_items(&facts[i]);
    mal_measuring_add(&measuring, scores, n);
    mal_measuring_end(&measuring, out);
}
