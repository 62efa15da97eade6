/* probes.c - prompts asked on the base weights once, and again after each change. */
#include "daemon/engine/probes.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/example.h"
#include "core/file.h"
#include "core/random.h"

/* Of the prompts answered together: one pass over so many takes tens of milliseconds. */
enum { SLICE_PROMPTS = 64, SLICE_BYTES = 4096 };

/* ---- Slices ---- */

/* How many of the prompts from `first` on are asked together. */
static size_t slice_length(const struct mal_asked *asked, size_t first) {
    size_t n = 0, bytes = 0;
    while (first + n < asked->n && n < SLICE_PROMPTS) {
        bytes += strlen(asked->facts[first + n].unrelated->prompt);
        if (bytes > SLICE_BYTES && n > 0) break;
        n++;
    }
    return n;
}

static size_t count_slices(const struct mal_asked *asked) {
    size_t n = 0;
    for (size_t first = 0; first < asked->n; n++)
        first += slice_length(asked, first);
    return n;
}

static void forget_base(struct mal_asked *asked) {
    for (size_t s = 0; s < asked->n_slices; s++)
        mal_answers_finish(&asked->base[s]);
    mal_free(asked->base);
    asked->base = NULL;
    asked->n_slices = asked->n_answered = 0;
}

/* Asks the next slice. */
static bool ask_slice(struct mal_asked *asked, struct mal_model *model,
                      const struct mal_tokenizer *tok, bool (*tick)(void *),
                      void *tick_arg, size_t *out_n, struct mal_error *err) {
    struct mal_answers answers = {0};
    size_t n = slice_length(asked, asked->n_answered);
    *out_n = n;
    if (n == 0) return true;
    if (!mal_answers_make(model, tok, asked->facts + asked->n_answered, n, n, tick,
                          tick_arg, &answers, err))
        return false;
    if (!asked->base) asked->base = mal_calloc(count_slices(asked), sizeof *asked->base);
    if (!asked->base) {
        mal_answers_finish(&answers);
        return mal_fail(err, MAL_NO_MEMORY, "answers");
    }
    asked->base[asked->n_slices++] = answers;
    asked->n_answered += n;
    return true;
}

/* ---- Those of a file ---- */

bool mal_probes_check(const struct mal_probes *probes, const struct mal_model *model,
                      const struct mal_tokenizer *tok, struct mal_error *err) {
    for (size_t i = 0; i < probes->asked.n; i++) {
        const struct mal_fact *fact = &probes->asked.facts[i];
        const struct mal_probe *probe = fact->unrelated;
        struct mal_example example = {0};
        bool ok = probe->target
                      ? mal_example_init(&example, model, tok, probe->prompt,
                                         probe->target, fact->join, err)
                      : mal_example_open(&example, model, tok, probe->prompt, err);
        mal_example_finish(&example);
        if (ok) continue;
        return mal_fail_wrap(err, "%s: %s %zu", mal_file_shown(probes->path),
                             probes->unit, probes->place[i]);
    }
    return true;
}

void mal_probes_finish(struct mal_probes *probes) {
    forget_base(&probes->asked);
    mal_facts_free(probes->asked.facts, probes->asked.n);
    mal_free(probes->place);
    mal_free(probes->path);
    *probes = (struct mal_probes){0};
}

/* ---- Those of a batch ---- */

static bool take_unrelated(struct mal_asked *own, const struct mal_fact *facts,
                           size_t n_facts, struct mal_error *err) {
    size_t left = 0;
    for (size_t i = 0; i < n_facts; i++)
        left += facts[i].n_unrelated;
    size_t want = left < MAL_MAX_BATCH_UNRELATED ? left : MAL_MAX_BATCH_UNRELATED;
    uint64_t random = 1;
    own->facts = mal_calloc(want, sizeof *own->facts);
    if (!own->facts) return mal_fail(err, MAL_NO_MEMORY, "probes");
    for (size_t i = 0; i < n_facts; i++) {
        for (size_t j = 0; j < facts[i].n_unrelated; j++) {
            if (mal_random_below(&random, left--) >= want - own->n) continue;
            own->facts[own->n++] = (struct mal_fact){.join = facts[i].join,
                                                     .unrelated = &facts[i].unrelated[j],
                                                     .n_unrelated = 1};
        }
    }
    return true;
}

bool mal_agreement_begin(struct mal_agreement *out, struct mal_probes *probes,
                         const struct mal_fact *facts, size_t n_facts,
                         struct mal_error *err) {
    *out = (struct mal_agreement){.common = probes ? &probes->asked : NULL};
    return take_unrelated(&out->own, facts, n_facts, err);
}

bool mal_agreement_ask(struct mal_agreement *agreement, struct mal_model *model,
                       const struct mal_tokenizer *tok, bool (*tick)(void *),
                       void *tick_arg, size_t *out_n, struct mal_error *err) {
    if (!ask_slice(&agreement->own, model, tok, tick, tick_arg, out_n, err)) return false;
    return *out_n > 0 || !agreement->common ||
           ask_slice(agreement->common, model, tok, tick, tick_arg, out_n, err);
}

bool mal_agreement_open(struct mal_agreement *out, struct mal_probes *probes,
                        struct mal_model *model, const struct mal_tokenizer *tok,
                        const struct mal_fact *facts, size_t n_facts,
                        bool (*tick)(void *), void *tick_arg, struct mal_error *err) {
    struct mal_agreement a;
    size_t n = 1;
    bool ok = mal_agreement_begin(&a, probes, facts, n_facts, err);
    while (ok && n > 0)
        ok = mal_agreement_ask(&a, model, tok, tick, tick_arg, &n, err);
    if (!ok) {
        mal_agreement_finish(&a);
        return false;
    }
    *out = a;
    return true;
}

bool mal_agreement_compare(const struct mal_agreement *agreement, struct mal_model *model,
                           const struct mal_tokenizer *tok, bool (*tick)(void *),
                           void *tick_arg, struct mal_comparison *comparison,
                           size_t *out_n, struct mal_error *err) {
    struct mal_comparison *c = comparison;
    struct mal_answers now = {0};
    *out_n = 0;
    if (!c->common && c->slice == agreement->own.n_slices)
        *c = (struct mal_comparison){.n = c->n, .n_same = c->n_same, .common = true};
    const struct mal_asked *asked = c->common ? agreement->common : &agreement->own;
    if (!asked || c->slice == asked->n_slices) return true;
    const struct mal_answers *base = &asked->base[c->slice];
    if (!mal_answers_make(model, tok, asked->facts + c->first, base->n, base->n, tick,
                          tick_arg, &now, err))
        return false;
    c->n += base->n;
    c->n_same += mal_answers_same(base, &now);
    c->first += base->n;
    c->slice++;
    *out_n = base->n;
    mal_answers_finish(&now);
    return true;
}

double mal_comparison_share(const struct mal_comparison *comparison) {
    return comparison->n ? (double)comparison->n_same / (double)comparison->n
                         : (double)NAN;
}

bool mal_agreement_measure(const struct mal_agreement *agreement, struct mal_model *model,
                           const struct mal_tokenizer *tok, bool (*tick)(void *),
                           void *tick_arg, double *out, struct mal_error *err) {
    struct mal_comparison comparison = {0};
    size_t n = 1;
    while (n > 0) {
        if (!mal_agreement_compare(agreement, model, tok, tick, tick_arg, &comparison, &n,
                                   err))
            return false;
    }
    *out = mal_comparison_share(&comparison);
    return true;
}

void mal_agreement_finish(struct mal_agreement *agreement) {
    forget_base(&agreement->own);
    mal_free(agreement->own.facts); /* what is in them belongs to the batch */
    *agreement = (struct mal_agreement){0};
}
