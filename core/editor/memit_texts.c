/* memit_texts.c - a fact in its contexts, and where its subject ends in them. */
#include <stdio.h>
#include <string.h>

#include "core/alloc.h"
#include "core/editor/memit_impl.h"
#include "core/text.h"

/* ---- A subject's last token ---- */

/* The ids begin as the text up to `end` does by itself: its last token is the one. */
static bool splits_there(const struct mal_ids *alone, const int32_t *ids, int32_t n) {
    return alone->n > 0 && alone->n <= (size_t)n &&
           memcmp(alone->ids, ids, alone->n * sizeof *ids) == 0;
}

/* Else a token goes on beyond `end`: the first with which that many bytes are there. */
static bool find_by_bytes(const struct mal_tokenizer *tok, size_t end, const int32_t *ids,
                          int32_t n, int32_t *out, struct mal_error *err) {
    for (int32_t i = 0; i < n; i++) {
        char *text = NULL;
        size_t bytes = 0;
        if (!mal_tokenizer_decode(tok, ids, (size_t)i + 1, true, true, &text, &bytes,
                                  err))
            return false;
        mal_free(text);
        *out = i;
        if (bytes >= end) break;
    }
    return true;
}

bool mal_memit_last_token(const struct mal_tokenizer *tok, const char *text, size_t end,
                          const int32_t *ids, int32_t n, int32_t *out,
                          struct mal_error *err) {
    struct mal_ids alone = {0};
    bool ok = mal_tokenizer_encode_before(tok, text, end, &alone, err);
    if (ok && splits_there(&alone, ids, n))
        *out = (int32_t)alone.n - 1;
    else
        ok = ok && find_by_bytes(tok, end, ids, n, out, err);
    mal_ids_finish(&alone);
    return ok;
}

/* ---- A fact's texts ---- */

struct reading {
    const struct mal_memit *memit;
    const struct mal_model *model;
    const struct mal_tokenizer *tok;
    const struct mal_fact *fact;
    struct mal_memit_fact *out;
};

static const char *last_occurrence(const char *text, const char *word) {
    const char *found = NULL;
    for (const char *at = text; (at = strstr(at, word)); at++)
        found = at;
    return found;
}

/* context with "{}" replaced by the prompt, owned; *out_at: where the prompt begins. */
static char *in_context(const char *context, const char *prompt, size_t *out_at) {
    const char *hole = strstr(context, "{}");
    size_t before = (size_t)(hole - context), n = strlen(prompt);
    size_t after = strlen(hole + 2);
    char *text = mal_malloc(before + n + after + 1);
    if (!text) return NULL;
    memcpy(text, context, before);
    memcpy(text + before, prompt, n);
    memcpy(text + before + n, hole + 2, after + 1);
    *out_at = before;
    return text;
}

/* The prompt, whose subject ends at byte `end`, in a context. */
static bool add_text(const struct reading *r, const char *context, const char *prompt,
                     size_t end, struct mal_error *err) {
    struct mal_memit_fact *out = r->out;
    struct mal_example *e = &out->texts[out->n];
    size_t at = 0;
    char *text = in_context(context, prompt, &at);
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "a fact's contexts");
    bool ok =
        mal_example_init(e, r->model, r->tok, text, r->fact->target, r->fact->join, err);
    if (ok) {
        out->n++;
        ok = mal_memit_last_token(r->tok, text, at + end, e->ids, e->from + 1,
                                  &out->at[out->n - 1], err);
    }
    mal_free(text);
    return ok;
}

/* `field` is the pointer to the prompt within the fact. */
static bool add_prompt(const struct reading *r, const char *prompt, const char *field,
                       struct mal_error *err) {
    const char *subject = r->fact->subject, *found = last_occurrence(prompt, subject);
    char shown[MAL_TEXT_SHOWN];
    if (!found) {
        return mal_fail_at(err, MAL_INVALID, field,
                           "the subject '%s' does not occur in the prompt",
                           mal_text_shown(shown, subject));
    }
    size_t end = (size_t)(found - prompt) + strlen(subject);
    for (size_t c = 0; c < r->memit->n_contexts; c++) {
        struct mal_error own = {0};
        if (add_text(r, r->memit->contexts[c], prompt, end, &own)) continue;
        return mal_fail_at(err, own.status, field, "%s%s", c > 0 ? "in a context: " : "",
                           own.text);
    }
    return true;
}

/* What follows its last token does not change what comes after that. */
static bool add_about(const struct reading *r, struct mal_error *err) {
    const char *subject = r->fact->subject;
    struct mal_ids *ids = &r->out->about;
    size_t n = strlen(subject), size = n + sizeof " is a";
    int32_t at = 0;
    char *text = mal_malloc(size);
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "a fact's subject");
    (void)snprintf(text, size, "%s is a", subject);
    bool ok = mal_tokenizer_encode_before(r->tok, text, size - 1, ids, err) &&
              mal_memit_last_token(r->tok, text, n, ids->ids, (int32_t)ids->n, &at, err);
    if (ok) ids->n = (size_t)at + 1;
    mal_free(text);
    return ok;
}

static bool add_prompts(const struct reading *r, struct mal_error *err) {
    const struct mal_fact *fact = r->fact;
    if (!add_prompt(r, fact->prompt, "/prompt", err)) return false;
    for (size_t i = 0; i < fact->n_prompts; i++) {
        char field[64];
        snprintf(field, sizeof field, "/prompts/%zu", i);
        if (!add_prompt(r, fact->prompts[i], field, err)) return false;
    }
    return true;
}

static void fact_finish(struct mal_memit_fact *fact) {
    mal_examples_free(fact->texts, fact->n);
    mal_free(fact->at);
    mal_ids_finish(&fact->about);
    *fact = (struct mal_memit_fact){0};
}

bool mal_memit_fact_init(struct mal_memit_fact *out, const struct mal_memit *memit,
                         const struct mal_model *model, const struct mal_tokenizer *tok,
                         const struct mal_fact *fact, struct mal_error *err) {
    struct reading r = {memit, model, tok, fact, out};
    struct mal_error own = {0};
    *out = (struct mal_memit_fact){.n_prompts = 1 + fact->n_prompts};
    if (!fact->subject || !*fact->subject) {
        return mal_fail_at(err, MAL_INVALID, "/subject",
                           "MEMIT needs the subject, a part of the prompt");
    }
    size_t n = out->n_prompts * memit->n_contexts;
    out->texts = mal_calloc(n, sizeof *out->texts);
    out->at = mal_calloc(n, sizeof *out->at);
    bool ok =
        (out->texts && out->at) || mal_fail(err, MAL_NO_MEMORY, "a fact's contexts");
    ok = ok && add_prompts(&r, err);
    if (ok && !add_about(&r, &own))
        ok = mal_fail_at(err, own.status, "/subject", "%s", own.text);
    if (!ok) fact_finish(out);
    return ok;
}

void mal_memit_facts_free(struct mal_memit_fact *facts, size_t n) {
    for (size_t i = 0; facts && i < n; i++)
        fact_finish(&facts[i]);
    mal_free(facts);
}
