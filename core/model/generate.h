/* generate.h - continues many prompts at once with a KV cache. */
#ifndef MAL_GENERATE_H
#define MAL_GENERATE_H

#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

enum mal_finish { MAL_FINISH_LENGTH, MAL_FINISH_STOP };

struct mal_generation {
    /* in */
    const int32_t *prompt; /* at least one token */
    size_t n_prompt;
    int64_t max_tokens; /* clipped to what the context holds */
    float temperature;  /* 0: greedy */
    float top_p;        /* in (0, 1]; 1: all */
    uint64_t seed;      /* same seed, version and request: same answer on this device */
    const char *const *stop; /* texts that end the answer, not part of it */
    size_t n_stop;
    bool follow;   /* text, sure and ended are kept up to date, for `tick` to look at */
    bool given_up; /* `tick` sets it: no further tokens, the others go on */
    /* out: owned by the caller, mal_generation_finish() */
    int32_t *ids; /* generated, without end of text */
    size_t n_ids;
    char *text; /* decoded, cut before a stop text */
    size_t text_bytes;
    size_t sure; /* bytes of the text that the answer has whatever comes: whole
                  * characters, and nothing that may turn out to be a stop text */
    bool ended;  /* text and finish are final, sure is all */
    enum mal_finish finish;
};

/* Runs all of them together on the weights in use. `tick` (may be NULL) is called between
 * steps; when it returns false the call ends with MAL_CANCELLED. */
bool mal_generate(struct mal_model *model, const struct mal_tokenizer *tok,
                  struct mal_generation *gens, size_t n, bool (*tick)(void *),
                  void *tick_arg, struct mal_error *err) MAL_CHECK;
void mal_generation_finish(struct mal_generation *gen); /* frees what was put out */

#endif
