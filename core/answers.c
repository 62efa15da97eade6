/* answers.c - greedy answers to unrelated prompts, and how many of them stayed. */
#include "core/answers.h"

#include <math.h>
#include <string.h>

#include "core/alloc.h"
#include "core/example.h"

enum { FREE_TOKENS = 8 }; /* of an answer whose length nobody said */

static bool fill(const struct mal_model *model, const struct mal_tokenizer *tok,
                 const struct mal_probe *probe, const char *join, struct mal_ids *prompt,
                 struct mal_generation *gen, struct mal_error *err) {
    struct mal_ids target = {0};
    size_t bytes = strlen(probe->prompt);
    while (bytes > 0 && probe->prompt[bytes - 1] == ' ')
        bytes--;
    bool ok = mal_tokenizer_encode(tok, probe->prompt, bytes, true, prompt, err);
    if (ok && probe->target) {
        ok = mal_example_target(model, tok, probe->target, join, &target, err);
    }
    *gen =
        (struct mal_generation){.prompt = prompt->ids,
                                .n_prompt = prompt->n,
                                .max_tokens = target.n ? (int64_t)target.n : FREE_TOKENS,
                                .top_p = 1};
    mal_ids_finish(&target);
    return ok;
}

bool mal_answers_make(struct mal_model *model, const struct mal_tokenizer *tok,
                      const struct mal_fact *facts, size_t n_facts, size_t max,
                      bool (*tick)(void *), void *tick_arg, struct mal_answers *out,
                      struct mal_error *err) {
    struct mal_answers answers = {0};
    size_t n = 0;
    for (size_t i = 0; i < n_facts; i++)
        n += facts[i].n_unrelated;
    if (n > max) n = max;
    answers.gens = mal_calloc(n, sizeof *answers.gens);
    answers.prompts = mal_calloc(n, sizeof *answers.prompts);
    bool ok = (answers.gens && answers.prompts) || mal_fail(err, MAL_NO_MEMORY, "probes");
    for (size_t i = 0; ok && i < n_facts; i++) {
        for (size_t j = 0; ok && j < facts[i].n_unrelated && answers.n < n; j++) {
            size_t k = answers.n++;
            ok = fill(model, tok, &facts[i].unrelated[j], facts[i].join,
                      &answers.prompts[k], &answers.gens[k], err);
            if (!ok) mal_fail_wrap(err, "fact %zu, unrelated prompt %zu", i, j);
        }
    }
    ok = ok && mal_generate(model, tok, answers.gens, answers.n, tick, tick_arg, err);
    if (!ok) {
        mal_answers_finish(&answers);
        return false;
    }
    *out = answers;
    return true;
}

void mal_answers_finish(struct mal_answers *answers) {
    for (size_t i = 0; i < answers->n; i++) {
        mal_generation_finish(&answers->gens[i]);
        mal_ids_finish(&answers->prompts[i]);
    }
    mal_free(answers->gens);
    mal_free(answers->prompts);
    *answers = (struct mal_answers){0};
}

size_t mal_answers_same(const struct mal_answers *a, const struct mal_answers *b) {
    size_t same = 0;
    for (size_t i = 0; i < a->n; i++) {
        const struct mal_generation *x = &a->gens[i], *y = &b->gens[i];
        if (x->n_ids != y->n_ids) continue;
        same += memcmp(x->ids, y->ids, x->n_ids * sizeof *x->ids) == 0;
    }
    return same;
}

double mal_answers_agreement(const struct mal_answers *a, const struct mal_answers *b) {
    return a->n ? (double)mal_answers_same(a, b) / (double)a->n : (double)NAN;
}
