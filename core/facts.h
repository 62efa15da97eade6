/* facts.h - what the model is to be taught. */
#ifndef MAL_FACTS_H
#define MAL_FACTS_H

#include <stddef.h>

#include "core/error.h"

struct mal_probe {
    char *prompt;
    char *target; /* NULL: only the base model's own answer counts */
};

/* One fact, all strings owned, UTF-8. */
struct mal_fact {
    char *id; /* "fact_...", NULL until it has one */
    char *prompt;
    char *target;
    char *subject;  /* NULL: not given */
    char *join;     /* what stands between prompt and target; NULL: one space */
    char **prompts; /* further phrasings, taught */
    size_t n_prompts;
    char **rephrases; /* phrasings only measured */
    size_t n_rephrases;
    struct mal_probe *unrelated;
    size_t n_unrelated;
};

void mal_fact_finish(struct mal_fact *fact);           /* frees the fields, zeroes */
void mal_facts_free(struct mal_fact *facts, size_t n); /* takes NULL */

/* Facts of a file, told apart by their fields: the API's form (an object with "facts", an
 * array, or NDJSON), the reference's zsRE form (src, alt, rephrase, loc, loc_ans) and its
 * pairs (src TAB alt), CounterFact's flat form (prompt, target_new, rephrase_prompt,
 * locality_prompt) and ROME's (requested_rewrite, paraphrase_prompts,
 * neighborhood_prompts). zsRE records whose alt is empty, which its files contain, are
 * passed over; anything else that is wrong refuses the file. Errors name file and record.
 * At least one fact; *out is owned by the caller: mal_facts_free(). */
bool mal_facts_load(struct mal_fact **out, size_t *out_n, const char *path,
                    struct mal_error *err) MAL_CHECK;

#endif
