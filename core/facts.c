/* facts.c - a fact's memory. */
#include "core/facts.h"

#include <string.h>

#include "core/alloc.h"

const char *const mal_fact_members[] = {"id",        "prompt",  "target",
                                        "subject",   "prompts", "rephrases",
                                        "unrelated", "join",    NULL};
const char *const mal_probe_members[] = {"prompt", "target", NULL};

bool mal_fact_id_valid(const char *id) {
    static const char allowed[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
                                  "0123456789_.:-";
    size_t n = strlen(id);
    return n >= 1 && n <= MAL_FACT_ID && strspn(id, allowed) == n;
}

static void free_texts(char **texts, size_t n) {
    for (size_t i = 0; i < n; i++)
        mal_free(texts[i]);
    mal_free(texts);
}

void mal_fact_finish(struct mal_fact *fact) {
    mal_free(fact->id);
    mal_free(fact->prompt);
    mal_free(fact->target);
    mal_free(fact->subject);
    mal_free(fact->join);
    free_texts(fact->prompts, fact->n_prompts);
    free_texts(fact->rephrases, fact->n_rephrases);
    for (size_t i = 0; i < fact->n_unrelated; i++) {
        mal_free(fact->unrelated[i].prompt);
        mal_free(fact->unrelated[i].target);
    }
    mal_free(fact->unrelated);
    mal_free(fact->odd);
    *fact = (struct mal_fact){0};
}

void mal_facts_free(struct mal_fact *facts, size_t n) {
    if (!facts) return;
    for (size_t i = 0; i < n; i++)
        mal_fact_finish(&facts[i]);
    mal_free(facts);
}

const char *mal_fact_text(const struct mal_fact *fact, size_t i) {
    return i == 0 ? fact->prompt : fact->prompts[i - 1];
}

size_t mal_prompt_bytes(const char *prompt) {
    size_t bytes = strlen(prompt);
    while (bytes > 0 && prompt[bytes - 1] == ' ')
        bytes--;
    return bytes;
}
