/* fact_set.h - facts of a change with the texts they teach and their value differences.
 */
#ifndef MAL_FACT_SET_H
#define MAL_FACT_SET_H

#include "core/editor/joint_change.h"
#include "core/facts.h"
#include "sql/store.h"

struct mal_set_fact {
    int64_t seq, version; /* version: that taught it; not of facts that are given */
    bool pinned;          /* its values are zero */
    bool decoded;         /* what is known of it: the model gives its target, */
    bool certain;   /* all its texts by the margin (repair.h), if not told decoded, */
    bool measured;  /* if anything is, */
    int32_t rounds; /* and how many rounds of repair it took */
    size_t first_text, n_texts;
    float *values; /* of its texts, one after the other, owned; NULL: not loaded */
    size_t n_values;
};

struct mal_fact_set {
    struct mal_fact *facts;  /* (n) */
    struct mal_set_fact *of; /* (n) */
    size_t n;
    bool borrowed;             /* facts are somebody else's */
    struct mal_example *texts; /* (n_texts), `source` is the fact's index */
    size_t n_texts;
    struct mal_example *held; /* (n_held) mal_fact_set_hold() */
    size_t n_held;
};

/* Facts as they are stored. */
bool mal_fact_set_of_rows(struct mal_fact_set *out, const struct mal_model *model,
                          const struct mal_tokenizer *tok,
                          const struct mal_fact_row *rows, size_t n,
                          struct mal_error *err) MAL_CHECK;
/* Given ones, borrowed; seqs (n) may be NULL. */
bool mal_fact_set_of_facts(struct mal_fact_set *out, const struct mal_model *model,
                           const struct mal_tokenizer *tok, const struct mal_fact *facts,
                           const int64_t *seqs, size_t n,
                           struct mal_error *err) MAL_CHECK;
/* Fills `held`: what the base model says to the prompts of the facts that are pinned, or
 * of `all`, as texts. Pinned without values like the fact's own texts, they keep the
 * whole answer, which shares no more than its first key with them. A classifier's answer
 * has no other. The model must read its base weights, also after a tick. */
bool mal_fact_set_hold(struct mal_fact_set *set, struct mal_model *model,
                       const struct mal_tokenizer *tok, bool all,
                       const struct mal_progress *progress,
                       struct mal_error *err) MAL_CHECK;
void mal_fact_set_finish(struct mal_fact_set *set); /* takes a zeroed one */

/* The values of facts in a version, by its path. */
struct mal_value_source {
    struct mal_store *store;
    const struct mal_joint *joint;
    const int64_t *path; /* (n_path), mal_history_path() */
    size_t n_path;
};

/* How many floats the values of a fact's texts are. */
size_t mal_fact_set_n_values(const struct mal_fact_set *set,
                             const struct mal_joint *joint, size_t i);
/* Fills of[i].values once: from the store, zeros of a pinned fact. Values that are
 * missing or have another size are MAL_CORRUPT naming the fact. */
bool mal_fact_set_load(struct mal_fact_set *set, size_t i,
                       const struct mal_value_source *source,
                       struct mal_error *err) MAL_CHECK;
/* Those of one text, in its fact's. */
float *mal_fact_set_values(const struct mal_fact_set *set, const struct mal_joint *joint,
                           size_t text);

#endif
