/* made_up.c - sentences sampled from a model, cut into facts and unrelated prompts. */
#include <ctype.h>
#include <string.h>

#include "core/alloc.h"
#include "core/example.h"
#include "core/made_up_impl.h"
#include "core/utf8.h"

enum {
    LONGEST_START = 3, /* tokens of a fact's prompt that a sentence begins with */
    SENTENCE_TOKENS = 16,
    ANSWER_TOKENS = 4,
    SPARE = 2 /* sentences sampled for one that is used: many come twice */
};

/* "The capital of X is" and "Y" */
struct sentence {
    char *prompt, *ending; /* owned */
    bool spaced;           /* a space stood between them */
};

struct sentences {
    struct sentence *list;
    size_t n;
};

static void sentences_finish(struct sentences *s) {
    for (size_t i = 0; i < s->n; i++) {
        mal_free(s->list[i].prompt);
        mal_free(s->list[i].ending);
    }
    mal_free(s->list);
}

/* ---- Sampling ---- */

/* The first tokens of a fact's prompt, at most half of it; for every second sentence a
 * word that opens anything, without which the sentences of few facts are all of a kind
 * and their statistics fit no others. */
static bool start_of(const struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_fact *like, size_t n_like, size_t i,
                     struct mal_ids *out, struct mal_error *err) {
    static const char *const openings[] = {"The", "A",    "In", "It",
                                           "He",  "When", "At", "On"};
    const size_t n_openings = sizeof openings / sizeof *openings;
    size_t k = i / 2;
    const char *text = i % 2 ? openings[k % n_openings] : like[k % n_like].prompt;
    if (!mal_text_tokens(mal_model_info(model), tok, text, strlen(text), "", out, err))
        return false;
    if (i % 2) return true;
    size_t special = 0;
    while (special < out->n && mal_tokenizer_is_special(tok, out->ids[special]))
        special++;
    size_t most = (out->n - special) / 2, n = 1 + k % LONGEST_START;
    if (n > most) n = most > 0 ? most : 1;
    if (special + n < out->n) out->n = special + n;
    return true;
}

static bool sample(struct mal_model *model, const struct mal_tokenizer *tok,
                   const struct mal_fact *like, size_t n_like, struct mal_ids *starts,
                   struct mal_generation *gens, size_t n, bool (*tick)(void *),
                   void *tick_arg, struct mal_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (!start_of(model, tok, like, n_like, i, &starts[i], err)) return false;
        gens[i] = (struct mal_generation){.prompt = starts[i].ids,
                                          .n_prompt = starts[i].n,
                                          .max_tokens = SENTENCE_TOKENS,
                                          .temperature = 1,
                                          .top_p = 1,
                                          .seed = i + 1};
    }
    return mal_generate(model, tok, gens, n, tick, tick_arg, err);
}

/* ---- Cutting ---- */

/* Where the last word begins; 0: there is but one. */
static size_t last_word(const char *text, size_t bytes) {
    while (bytes > 0 && text[bytes - 1] != ' ')
        bytes--;
    return bytes;
}

static size_t without(const char *text, size_t bytes, int (*is)(int)) {
    while (bytes > 0 && is((unsigned char)text[bytes - 1]))
        bytes--;
    return bytes;
}

static char *copy(const char *text, size_t bytes) {
    char *out = mal_malloc(bytes + 1);
    if (!out) return NULL;
    memcpy(out, text, bytes);
    out[bytes] = 0;
    return out;
}

/* Cuts the last word off, in a script without spaces the last third. False: nothing of
 * use is left. `ended`: the text was not cut amid a word. */
static bool cut(const char *text, bool ended, struct sentence *out,
                struct mal_error *err) {
    size_t bytes = strlen(text);
    bool spaced = strchr(text, ' ') != NULL;
    if (!ended && spaced) bytes = last_word(text, bytes);
    bytes = without(text, bytes, isspace);
    bytes = without(text, bytes, ispunct);
    size_t at = last_word(text, bytes);
    if (!spaced) {
        at = mal_utf8_complete_prefix(text, bytes - bytes / 3);
    }
    size_t prompt = without(text, at, isspace);
    *out = (struct sentence){.spaced = spaced};
    if (prompt == 0 || at >= bytes) return true;
    out->prompt = copy(text, prompt);
    out->ending = copy(text + at, bytes - at);
    return (out->prompt && out->ending) || mal_fail(err, MAL_NO_MEMORY, "sentences");
}

bool mal_made_up_known(const struct mal_fact *like, size_t n_like, const char *prompt) {
    for (size_t i = 0; i < n_like; i++) {
        for (size_t j = 0; j <= like[i].n_prompts; j++) {
            if (strcmp(mal_fact_text(&like[i], j), prompt) == 0) return true;
        }
    }
    return false;
}

static bool is_known(const struct sentences *s, const struct mal_fact *like,
                     size_t n_like, const char *prompt) {
    for (size_t i = 0; i < s->n; i++) {
        if (strcmp(s->list[i].prompt, prompt) == 0) return true;
    }
    return mal_made_up_known(like, n_like, prompt);
}

static bool add_sentence(const struct mal_tokenizer *tok, const struct mal_ids *start,
                         const struct mal_generation *gen, const struct mal_fact *like,
                         size_t n_like, struct sentences *s, struct mal_error *err) {
    char *text = NULL;
    size_t bytes = 0;
    struct mal_ids ids = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < start->n + gen->n_ids; i++) {
        int32_t id = i < start->n ? start->ids[i] : gen->ids[i - start->n];
        if (id < mal_tokenizer_size(tok)) ok = mal_ids_push(&ids, id, err);
    }
    ok = ok && mal_tokenizer_decode(tok, ids.ids, ids.n, true, false, &text, &bytes, err);
    struct sentence sentence = {0};
    ok = ok && cut(text, gen->finish == MAL_FINISH_STOP, &sentence, err);
    if (ok && sentence.prompt && !is_known(s, like, n_like, sentence.prompt)) {
        s->list[s->n++] = sentence;
    } else {
        mal_free(sentence.prompt);
        mal_free(sentence.ending);
    }
    mal_ids_finish(&ids);
    mal_free(text);
    return ok;
}

static bool make_sentences(struct mal_model *model, const struct mal_tokenizer *tok,
                           const struct mal_fact *like, size_t n_like, size_t n,
                           bool (*tick)(void *), void *tick_arg, struct sentences *out,
                           struct mal_error *err) {
    struct mal_ids *starts = mal_calloc(n, sizeof *starts);
    struct mal_generation *gens = mal_calloc(n, sizeof *gens);
    out->list = mal_calloc(n, sizeof *out->list);
    bool ok = (starts && gens && out->list) || mal_fail(err, MAL_NO_MEMORY, "sentences");
    ok = ok && sample(model, tok, like, n_like, starts, gens, n, tick, tick_arg, err);
    for (size_t i = 0; ok && i < n; i++)
        ok = add_sentence(tok, &starts[i], &gens[i], like, n_like, out, err);
    for (size_t i = 0; i < n; i++) {
        if (starts) mal_ids_finish(&starts[i]);
        if (gens) mal_generation_finish(&gens[i]);
    }
    mal_free(starts);
    mal_free(gens);
    return ok;
}

/* ---- Facts ---- */

/* The greedy answer becomes the probe's target, where it joins as the fact's does. */
static bool take_answer(const struct mal_generation *gen, bool spaced,
                        struct mal_probe *probe, struct mal_error *err) {
    const char *text = gen->text;
    size_t bytes = without(text, strlen(text), isspace);
    if (bytes == 0 || (text[0] == ' ') != spaced) return true;
    probe->target = copy(text + spaced, bytes - spaced);
    return probe->target || mal_fail(err, MAL_NO_MEMORY, "probes");
}

static bool answer(struct mal_model *model, const struct mal_tokenizer *tok,
                   struct mal_fact *facts, size_t n, bool (*tick)(void *), void *tick_arg,
                   struct mal_error *err) {
    struct mal_ids *prompts = mal_calloc(n, sizeof *prompts);
    struct mal_generation *gens = mal_calloc(n, sizeof *gens);
    bool ok = (prompts && gens) || mal_fail(err, MAL_NO_MEMORY, "probes");
    for (size_t i = 0; ok && i < n; i++) {
        const char *prompt = facts[i].unrelated[0].prompt;
        ok = mal_text_tokens(mal_model_info(model), tok, prompt, strlen(prompt), "",
                             &prompts[i], err);
        gens[i] = (struct mal_generation){.prompt = prompts[i].ids,
                                          .n_prompt = prompts[i].n,
                                          .max_tokens = ANSWER_TOKENS,
                                          .top_p = 1};
    }
    ok = ok && mal_generate(model, tok, gens, n, tick, tick_arg, err);
    for (size_t i = 0; ok && i < n; i++)
        ok = take_answer(&gens[i], !facts[i].join, &facts[i].unrelated[0], err);
    for (size_t i = 0; i < n; i++) {
        if (prompts) mal_ids_finish(&prompts[i]);
        if (gens) mal_generation_finish(&gens[i]);
    }
    mal_free(prompts);
    mal_free(gens);
    return ok;
}

/* The ending of the next sentence that ends otherwise. */
static const char *other_ending(const struct sentences *s, size_t i) {
    for (size_t k = 1; k < s->n; k++) {
        const struct sentence *other = &s->list[(i + k) % s->n];
        if (other->spaced == s->list[i].spaced &&
            strcmp(other->ending, s->list[i].ending) != 0)
            return other->ending;
    }
    return NULL;
}

/* Sentence i taught wrongly, sentence `kept` to stay. */
static bool make_fact(const struct sentences *s, size_t i, size_t kept,
                      struct mal_fact *out, struct mal_error *err) {
    const char *target = other_ending(s, i);
    if (!target) return true;
    out->prompt = mal_strdup(s->list[i].prompt);
    out->target = mal_strdup(target);
    out->join = s->list[i].spaced ? NULL : mal_strdup("");
    out->unrelated = mal_calloc(1, sizeof *out->unrelated);
    if (out->unrelated) {
        out->unrelated[out->n_unrelated++].prompt = mal_strdup(s->list[kept].prompt);
    }
    if (out->prompt && out->target && (s->list[i].spaced || out->join) &&
        out->n_unrelated > 0 && out->unrelated[0].prompt) {
        return true;
    }
    return mal_fail(err, MAL_NO_MEMORY, "facts");
}

/* Whether the model can be taught it, or asked: the ending of another sentence may be too
 * long behind this one, or have no tokens there. False: out of memory. */
static bool can_read(const struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_fact *fact, const struct mal_probe *probe,
                     bool *out, struct mal_error *err) {
    struct mal_example example = {0};
    struct mal_error why = {0};
    const char *prompt = probe ? probe->prompt : fact->prompt;
    const char *target = probe ? probe->target : fact->target;
    *out = target
               ? mal_example_init(&example, model, tok, prompt, target, fact->join, &why)
               : mal_example_open(&example, model, tok, prompt, &why);
    mal_example_finish(&example);
    if (!*out && why.status == MAL_NO_MEMORY) *err = why;
    return *out || why.status != MAL_NO_MEMORY;
}

/* Leaves out what the model cannot read. */
static bool drop_unread(const struct mal_model *model, const struct mal_tokenizer *tok,
                        struct mal_fact *facts, size_t *n, struct mal_error *err) {
    size_t kept = 0;
    bool ok = true;
    for (size_t i = 0; i < *n; i++) {
        struct mal_fact fact = facts[i];
        bool fits = false, asked = false;
        ok = ok && can_read(model, tok, &fact, NULL, &fits, err) &&
             can_read(model, tok, &fact, &fact.unrelated[0], &asked, err);
        facts[i] = (struct mal_fact){0};
        if (fits && asked) {
            facts[kept++] = fact;
        } else {
            mal_fact_finish(&fact);
        }
    }
    *n = kept;
    return ok;
}

bool mal_facts_make_up(struct mal_model *model, const struct mal_tokenizer *tok,
                       const struct mal_fact *like, size_t n_like, size_t n,
                       bool (*tick)(void *), void *tick_arg, struct mal_fact **out,
                       size_t *out_n, struct mal_error *err) {
    if (mal_model_info(model)->kind != MAL_MODEL_CAUSAL)
        return mal_made_up_texts(model, tok, like, n_like, n, tick, tick_arg, out, out_n,
                                 err);
    struct sentences s = {0};
    struct mal_fact *facts = NULL;
    size_t made = 0;
    bool ok =
        make_sentences(model, tok, like, n_like, 2 * n * SPARE, tick, tick_arg, &s, err);
    if (ok && s.n / 2 < n) n = s.n / 2;
    if (ok) facts = mal_calloc(n, sizeof *facts);
    ok = ok && (facts || mal_fail(err, MAL_NO_MEMORY, "facts"));
    for (size_t i = 0; ok && i < n; i++) {
        ok = make_fact(&s, i, n + i, &facts[made], err);
        made += facts[made].prompt != NULL;
    }
    sentences_finish(&s);
    ok = ok && drop_unread(model, tok, facts, &made, err) &&
         answer(model, tok, facts, made, tick, tick_arg, err) &&
         drop_unread(model, tok, facts, &made, err);
    if (!ok) {
        mal_facts_free(facts, n);
        return false;
    }
    *out = facts;
    *out_n = made;
    return true;
}
