/* check.h - whether a model, its tokenizer and the facts to teach it fit together. */
#ifndef MAL_CHECK_H
#define MAL_CHECK_H

#include "core/facts.h"
#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

/* Every token of the tokenizer must be one of the model's. `dir` is for the error. */
bool mal_check_vocabulary(const struct mal_tokenizer *tok, const struct mal_model *model,
                          const char *dir, struct mal_error *err) MAL_CHECK;

/* Checks facts as a batch will: tokenizes each; touches no device. *out_tokens: target
 * tokens. The first text that does not fit is an error with its pointer
 * ("/facts/3/rephrases/0"). */
bool mal_check_facts(const struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_fact *facts, size_t n, int64_t *out_tokens,
                     struct mal_error *err) MAL_CHECK;
/* The same for facts of a file, which the error names, too. */
bool mal_check_facts_of(const char *path, const struct mal_tokenizer *tok,
                        const struct mal_model *model, const struct mal_fact *facts,
                        size_t n, struct mal_error *err) MAL_CHECK;

#endif
