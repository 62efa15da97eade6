/* preserve_texts.h - texts whose answers must not move (core/README.md section 3): what
 * preservation keys are measured on, as token ids. */
#ifndef MAL_PRESERVE_TEXTS_H
#define MAL_PRESERVE_TEXTS_H

#include <stdint.h>

#include "core/error.h"
#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

/* Text i is ids[start[i] .. start[i + 1]), at least one id; keys are taken at its
 * positions from[i] on, at least one; of a classifier at from[i] alone. For an
 * encoder-decoder the ids before from[i] are what its encoder reads, where keys are taken
 * at each, the others what its decoder reads. Host memory, owned. */
struct mal_preserve_texts {
    size_t n;       /* 0: none, and no arrays */
    int32_t *ids;   /* (start[n]) */
    int32_t *start; /* (n + 1) */
    int32_t *from;  /* (n) */
};

/* From a file: facts in any form of mal_facts_load(), whose keys are taken at the
 * positions that predict the target; or, with keys at every token (of an
 * encoder-decoder's answer: at its first), prompts (objects with
 * a "prompt" and no target, as a JSON array or line by line, or an array of strings) or
 * lines of plain text, those longer than the context cut into pieces. Errors name file
 * and record. */
bool mal_preserve_texts_load(struct mal_preserve_texts *out, const char *path,
                             const struct mal_model *model,
                             const struct mal_tokenizer *tok,
                             struct mal_error *err) MAL_CHECK;
void mal_preserve_texts_finish(struct mal_preserve_texts *texts); /* takes a zeroed one */

/* Keys of a module, whose rows are the source's or not. */
int64_t mal_preserve_texts_n_keys(const struct mal_preserve_texts *texts,
                                  const struct mal_model *model, bool of_source);

#endif
