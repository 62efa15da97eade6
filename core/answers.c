/* answers.c - greedy answers to unrelated prompts, and how many of them stayed. */
#include "core/answers.h"

#include <string.h>

#include "core/alloc.h"
#include "core/eval.h"

enum { FREE_TOKENS = 8 }; /* of an answer whose length nobody said */

static bool fill(const struct mal_model *model, const struct mal_tokenizer *tok,
                 const struct mal_probe *probe, const char *join, struct mal_ids *prompt,
                 struct mal_generation *gen, struct mal_error *err) {
    struct mal_ids target = {0};
    size_t bytes = mal_prompt_bytes(probe->prompt);
    const struct mal_model_info *info = mal_model_info(model);
    size_t most = (size_t)mal_longest_text(info);
    bool ok = mal_text_tokens(info, tok, probe->prompt, bytes, "", prompt, err);
    if (ok && prompt->n > most) {
        ok = mal_fail(err, MAL_INVALID, "the prompt has %zu tokens, the most are %zu",
                      prompt->n, most);
    }
    if (ok && probe->target) {
        int32_t last = prompt->n ? prompt->ids[prompt->n - 1] : -1;
        ok = mal_example_target(model, tok, last, probe->target, join, &target, err);
    }
    *gen =
        (struct mal_generation){.prompt = prompt->ids,
                                .n_prompt = prompt->n,
                                .max_tokens = target.n ? (int64_t)target.n : FREE_TOKENS,
                                .top_p = 1};
    mal_ids_finish(&target);
    return ok;
}

/* ---- A classifier's ---- */

static bool take_class(const struct mal_score *score, struct mal_generation *gen,
                       struct mal_error *err) {
    int32_t class = score->tokens[0].argmax;
    if (class < 0)
        return mal_fail(err, MAL_NUMERIC, "the model's output is not a number");
    gen->ids = mal_calloc(1, sizeof *gen->ids);
    gen->text = mal_strdup(mal_class_names[class]);
    if (!gen->ids || !gen->text) return mal_fail(err, MAL_NO_MEMORY, "answers");
    gen->ids[gen->n_ids++] = class;
    gen->text_bytes = strlen(gen->text);
    return true;
}

static bool classify(struct mal_model *model, struct mal_answers *answers,
                     bool (*tick)(void *), void *tick_arg, struct mal_error *err) {
    size_t n = answers->n;
    struct mal_example *examples = mal_calloc(n, sizeof *examples);
    struct mal_score *scores = mal_calloc(n, sizeof *scores);
    int32_t any = -1;
    bool ok = (examples && scores) || mal_fail(err, MAL_NO_MEMORY, "answers");
    for (size_t i = 0; ok && i < n; i++) { /* lent, not owned */
        examples[i] = (struct mal_example){.ids = answers->prompts[i].ids,
                                           .n = (int32_t)answers->prompts[i].n,
                                           .target = &any,
                                           .n_target = 1};
    }
    ok = ok && mal_score_examples(model, NULL, examples, n, tick, tick_arg, scores, err);
    for (size_t i = 0; ok && i < n; i++)
        ok = take_class(&scores[i], &answers->gens[i], err);
    mal_scores_free(scores, n);
    mal_free(examples);
    return ok;
}

/* ---- Any ---- */

static bool answer(struct mal_model *model, const struct mal_tokenizer *tok,
                   struct mal_answers *answers, bool (*tick)(void *), void *tick_arg,
                   struct mal_error *err) {
    if (mal_model_info(model)->kind == MAL_MODEL_CLASSIFIER)
        return classify(model, answers, tick, tick_arg, err);
    return mal_generate(model, tok, answers->gens, answers->n, tick, tick_arg, err);
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
    ok = ok && answer(model, tok, &answers, tick, tick_arg, err);
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
