/* made_up_texts.c - facts for models that continue no text, and so write none of their
 * own: their user's prompts with words exchanged, and the models' answers to those. */
#include <ctype.h>
#include <string.h>

#include "core/alloc.h"
#include "core/answers.h"
#include "core/example.h"
#include "core/made_up_impl.h"
#include "core/random.h"

enum {
    DRAWS = 16, /* of a token until it is a word */
    SPARE = 2   /* texts tried for one that is used: some come twice */
};

struct texts {
    char **list; /* (n), owned */
    size_t n;
};

static void texts_finish(struct texts *texts) {
    for (size_t i = 0; i < texts->n; i++)
        mal_free(texts->list[i]);
    mal_free(texts->list);
}

/* ---- Texts ---- */

static bool is_word(const char *text) {
    while (*text == ' ')
        text++;
    size_t n = 0;
    for (; text[n]; n++) {
        unsigned char byte = (unsigned char)text[n];
        if (byte < 0x80 && !isalpha(byte)) return false;
    }
    return n > 1;
}

/* A token of the vocabulary that is letters alone, where luck finds one. */
static bool draw_word(const struct mal_tokenizer *tok, uint64_t *random, int32_t *out,
                      struct mal_error *err) {
    for (int i = 0; i < DRAWS; i++) {
        char *text = NULL;
        size_t bytes;
        *out = (int32_t)mal_random_below(random, (uint64_t)mal_tokenizer_size(tok));
        if (mal_tokenizer_is_special(tok, *out)) continue;
        if (!mal_tokenizer_decode(tok, out, 1, true, false, &text, &bytes, err))
            return false;
        bool word = is_word(text);
        mal_free(text);
        if (word) break;
    }
    return true;
}

/* A prompt of which every second token, or every token, is another. *out is owned. */
static bool make_text(const struct mal_tokenizer *tok, const char *like, bool keep,
                      uint64_t *random, char **out, struct mal_error *err) {
    struct mal_ids ids = {0};
    size_t bytes;
    bool ok = mal_tokenizer_encode(tok, like, strlen(like), false, &ids, err);
    for (size_t i = 0; ok && i < ids.n; i++) {
        if (keep && mal_random_below(random, 2) == 0) continue;
        ok = draw_word(tok, random, &ids.ids[i], err);
    }
    ok = ok && mal_tokenizer_decode(tok, ids.ids, ids.n, true, false, out, &bytes, err);
    mal_ids_finish(&ids);
    return ok;
}

/* It has not only spaces, is none of the texts so far, and the model can read it. */
static bool is_new(const struct texts *texts, const struct mal_model *model,
                   const struct mal_tokenizer *tok, const struct mal_fact *like,
                   size_t n_like, const char *text) {
    struct mal_example example = {0};
    struct mal_error ignored = {0};
    for (size_t i = 0; i < texts->n; i++) {
        if (strcmp(texts->list[i], text) == 0) return false;
    }
    if (mal_made_up_known(like, n_like, text)) return false;
    bool ok = mal_example_open(&example, model, tok, text, &ignored);
    mal_example_finish(&example);
    return ok;
}

static bool make_texts(const struct mal_model *model, const struct mal_tokenizer *tok,
                       const struct mal_fact *like, size_t n_like, size_t n,
                       struct texts *out, struct mal_error *err) {
    uint64_t random = 0;
    out->list = mal_calloc(n, sizeof *out->list);
    if (!out->list) return mal_fail(err, MAL_NO_MEMORY, "texts");
    for (size_t i = 0; i < n * SPARE && out->n < n; i++) {
        char *text = NULL;
        const char *prompt = like[i / 2 % n_like].prompt;
        if (!make_text(tok, prompt, i % 2 == 0, &random, &text, err)) return false;
        if (is_new(out, model, tok, like, n_like, text)) {
            out->list[out->n++] = text;
        } else {
            mal_free(text);
        }
    }
    return true;
}

/* ---- Facts ---- */

static bool answer(struct mal_model *model, const struct mal_tokenizer *tok,
                   const struct texts *texts, bool (*tick)(void *), void *tick_arg,
                   struct mal_answers *out, struct mal_error *err) {
    struct mal_fact asked = {.n_unrelated = texts->n};
    asked.unrelated = mal_calloc(texts->n, sizeof *asked.unrelated);
    if (!asked.unrelated) return mal_fail(err, MAL_NO_MEMORY, "texts");
    for (size_t i = 0; i < texts->n; i++)
        asked.unrelated[i].prompt = texts->list[i]; /* lent */
    bool ok = mal_answers_make(model, tok, &asked, 1, texts->n, tick, tick_arg, out, err);
    mal_free(asked.unrelated);
    return ok;
}

static bool says_something(const char *text) {
    return text[strspn(text, " ")] != 0;
}

/* Another answer than `own`: a classifier's other class, or what was said to the next
 * text that was answered otherwise, or to teach with. NULL: there is none. */
static const char *other_answer(const struct mal_model *model,
                                const struct mal_answers *answers,
                                const struct mal_fact *like, size_t n_like, size_t i) {
    const char *own = answers->gens[i].text;
    if (mal_model_info(model)->kind == MAL_MODEL_CLASSIFIER)
        return mal_class_names[strcmp(own, mal_class_names[0]) == 0];
    for (size_t k = 1; k < answers->n; k++) {
        const char *other = answers->gens[(i + k) % answers->n].text;
        if (says_something(other) && strcmp(own, other) != 0) return other;
    }
    for (size_t k = 0; k < n_like; k++) {
        const char *other = like[(i + k) % n_like].target;
        if (strcmp(own, other) != 0) return other;
    }
    return NULL;
}

/* What text i is taught; with `kept`, that text's own answer is to stay. */
static bool make_fact(const struct texts *texts, const struct mal_answers *answers,
                      const char *target, size_t i, const size_t *kept,
                      struct mal_fact *out, struct mal_error *err) {
    out->prompt = mal_strdup(texts->list[i]);
    out->target = mal_strdup(target);
    bool ok = out->prompt && out->target;
    if (ok && kept) {
        out->unrelated = mal_calloc(1, sizeof *out->unrelated);
        ok = out->unrelated != NULL;
    }
    if (ok && kept) {
        struct mal_probe *probe = &out->unrelated[out->n_unrelated++];
        probe->prompt = mal_strdup(texts->list[*kept]);
        probe->target = mal_strdup(answers->gens[*kept].text);
        ok = probe->prompt && probe->target;
    }
    return ok || mal_fail(err, MAL_NO_MEMORY, "facts");
}

/* An encoder-decoder is given nothing to keep: it is so unsure of its answers to such
 * texts that they move long before a real one does. With them the search took a quarter
 * to an eighth of the step it takes on real facts, without them nearly that: to be taught
 * 64 at once restrains it enough. A classifier has two answers only, and one that always
 * gives the other would have all of them right. */
bool mal_made_up_texts(struct mal_model *model, const struct mal_tokenizer *tok,
                       const struct mal_fact *like, size_t n_like, size_t n,
                       bool (*tick)(void *), void *tick_arg, struct mal_fact **out,
                       size_t *out_n, struct mal_error *err) {
    struct texts texts = {0};
    struct mal_answers answers = {0};
    struct mal_fact *facts = NULL;
    size_t made = 0, each = mal_model_info(model)->kind == MAL_MODEL_CLASSIFIER ? 2 : 1;
    bool ok = make_texts(model, tok, like, n_like, each * n, &texts, err) &&
              answer(model, tok, &texts, tick, tick_arg, &answers, err);
    n = texts.n / each;
    if (ok) facts = mal_calloc(n, sizeof *facts);
    ok = ok && (facts || mal_fail(err, MAL_NO_MEMORY, "facts"));
    for (size_t i = 0; ok && i < n; i++) {
        const char *target = other_answer(model, &answers, like, n_like, i);
        size_t kept = n + i;
        if (!target) continue;
        ok = make_fact(&texts, &answers, target, i, each > 1 ? &kept : NULL,
                       &facts[made++], err);
    }
    texts_finish(&texts);
    mal_answers_finish(&answers);
    if (!ok) {
        mal_facts_free(facts, made);
        return false;
    }
    *out = facts;
    *out_n = made;
    return true;
}
