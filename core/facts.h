/* facts.h - what the model is to be taught. */
#ifndef MAL_FACTS_H
#define MAL_FACTS_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"

struct mal_probe {
    char *prompt;
    char *target; /* NULL: only the base model's own answer counts */
};

/* One fact, all strings owned, UTF-8. */
struct mal_fact {
    char *id;     /* "fact_...", NULL until it has one */
    char *prompt; /* NULL only of one that was left out of a file's */
    char *target;
    char *subject;  /* NULL: not given */
    char *join;     /* what stands between prompt and target; NULL: one space */
    char **prompts; /* further phrasings, taught */
    size_t n_prompts;
    char **rephrases; /* phrasings only measured */
    size_t n_rephrases;
    struct mal_probe *unrelated;
    size_t n_unrelated;
    /* Of a fact of a file. */
    bool of_set; /* in a form of the research data sets */
    char *odd;   /* a member of the API's form that the API does not know, such as
                    "/unrelated/0/traget"; NULL: none */
};

/* What the API's objects may have, each list up to NULL. */
extern const char *const mal_fact_members[];
extern const char *const mal_probe_members[];

/* 1 to MAL_FACT_ID of A-Z a-z 0-9 _ . : - */
enum { MAL_FACT_ID = 64 };

bool mal_fact_id_valid(const char *id);

void mal_fact_finish(struct mal_fact *fact);           /* frees the fields, zeroes */
void mal_facts_free(struct mal_fact *facts, size_t n); /* takes NULL */
/* What it is taught in, 1 + n_prompts texts: the prompt, then the further phrasings. */
const char *mal_fact_text(const struct mal_fact *fact, size_t i);
/* Of a prompt without the spaces at its end, which are no part of it: it is the same with
 * and without them. */
size_t mal_prompt_bytes(const char *prompt);

/* Facts of a file: JSON (an object with "facts", an array, or one record after the other,
 * NDJSON), or lines src TAB alt. A record's form is told by its fields:
 * - the API's: prompt, target, ...
 * - zsRE: src, alt, rephrase, loc, loc_ans (MEND's files); with ans instead of alt (the
 *   reference's own) the probe is loc and a question mark
 * - FEVER as the reference has it: prompt, equiv_prompt (all are rephrases), alt,
 *   unrel_prompt, unrel_ans; labels are SUPPORTS or REFUTES
 * - FEVER's own: claim, label
 * - KILT's form with alternatives (MEND's and SERAC's FEVER): input, alternatives (the
 *   first is taught), filtered_rephrases
 * - CounterFact: prompt, target_new, rephrase_prompt, locality_prompt,
 *   locality_ground_truth (flat), or requested_rewrite, paraphrase_prompts,
 *   neighborhood_prompts (ROME's)
 * What has prompt and target is the API's whatever else it has (`odd`). Records of the
 * data sets with nothing to teach are passed over: an empty alt or ans, the label NOT
 * ENOUGH INFO, no alternatives. Anything else that is wrong refuses the file; errors name
 * file, record and field. At least one fact; *out is owned by the caller:
 * mal_facts_free(). */
bool mal_facts_load(struct mal_fact **out, size_t *out_n, const char *path,
                    struct mal_error *err) MAL_CHECK;
/* The same, and how many records were passed over. */
bool mal_facts_load_counting(struct mal_fact **out, size_t *out_n, size_t *out_passed,
                             const char *path, struct mal_error *err) MAL_CHECK;

#endif
