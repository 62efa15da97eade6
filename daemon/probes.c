/* probes.c - prompts asked on the base weights once, and again after each change. */
#include "daemon/probes.h"

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
    asked->n_slices = 0;
}

static bool ask_base(struct mal_asked *asked, struct mal_model *model,
                     const struct mal_tokenizer *tok, bool (*tick)(void *),
                     void *tick_arg, struct mal_error *err) {
    if (asked->base) return true;
    asked->base = mal_calloc(count_slices(asked), sizeof *asked->base);
    if (!asked->base) return mal_fail(err, MAL_NO_MEMORY, "answers");
    for (size_t first = 0, n; first < asked->n; first += n) {
        n = slice_length(asked, first);
        if (!mal_answers_make(model, tok, asked->facts + first, n, n, tick, tick_arg,
                              &asked->base[asked->n_slices], err)) {
            forget_base(asked);
            return false;
        }
        asked->n_slices++;
    }
    return true;
}

static bool count_same(const struct mal_asked *asked, struct mal_model *model,
                       const struct mal_tokenizer *tok, bool (*tick)(void *),
                       void *tick_arg, size_t *same, struct mal_error *err) {
    size_t first = 0;
    for (size_t s = 0; s < asked->n_slices; s++) {
        const struct mal_answers *base = &asked->base[s];
        struct mal_answers now = {0};
        if (!mal_answers_make(model, tok, asked->facts + first, base->n, base->n, tick,
                              tick_arg, &now, err)) {
            return false;
        }
        *same += mal_answers_same(base, &now);
        first += base->n;
        mal_answers_finish(&now);
    }
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

bool mal_agreement_open(struct mal_agreement *out, struct mal_probes *probes,
                        struct mal_model *model, const struct mal_tokenizer *tok,
                        const struct mal_fact *facts, size_t n_facts,
                        bool (*tick)(void *), void *tick_arg, struct mal_error *err) {
    struct mal_agreement a = {.common = probes ? &probes->asked : NULL};
    bool ok = take_unrelated(&a.own, facts, n_facts, err) &&
              ask_base(&a.own, model, tok, tick, tick_arg, err);
    if (ok && a.common) ok = ask_base(a.common, model, tok, tick, tick_arg, err);
    if (!ok) {
        mal_agreement_finish(&a);
        return false;
    }
    *out = a;
    return true;
}

bool mal_agreement_measure(const struct mal_agreement *agreement, struct mal_model *model,
                           const struct mal_tokenizer *tok, bool (*tick)(void *),
                           void *tick_arg, double *out, struct mal_error *err) {
    const struct mal_asked *all[] = {&agreement->own, agreement->common};
    size_t n = 0, same = 0;
    for (int i = 0; i < 2 && all[i]; i++) {
        if (!count_same(all[i], model, tok, tick, tick_arg, &same, err)) return false;
        n += all[i]->n;
    }
    *out = n ? (double)same / (double)n : (double)NAN;
    return true;
}

void mal_agreement_finish(struct mal_agreement *agreement) {
    forget_base(&agreement->own);
    mal_free(agreement->own.facts); /* what is in them belongs to the batch */
    *agreement = (struct mal_agreement){0};
}
