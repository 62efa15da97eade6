/* check.h - whether a model, its tokenizer and the facts to teach it fit together. */
#ifndef MAL_CHECK_H
#define MAL_CHECK_H

#include "core/editor/editor.h"
#include "core/facts.h"
#include "core/model/model.h"
#include "core/tokenizer/tokenizer.h"

/* Every token of the tokenizer must be one of the model's, and the model must have the
 * head that answers come from. `dir` is for the error. */
bool mal_check_model(const struct mal_model *model, const struct mal_tokenizer *tok,
                     const char *dir, struct mal_error *err) MAL_CHECK;

/* That the model gives texts, before it is asked for one. */
static inline bool mal_check_completes(const struct mal_model_info *info,
                                       struct mal_error *err) {
    if (info->kind != MAL_MODEL_CLASSIFIER) return true;
    return mal_fail(err, MAL_INVALID,
                    "this model (%s) is a fact checker and completes no text; POST "
                    "/v1/scores of 'malmend serve' says how probable it holds a claim",
                    info->architecture);
}

/* Checks facts as a batch will: tokenizes each; touches no device. *out_tokens: target
 * tokens. The first text that does not fit is an error with its pointer
 * ("/facts/3/rephrases/0"); `first` is the position of facts[0]. `editor` is to teach
 * them; NULL: they are measured only. */
bool mal_check_facts(const struct mal_model *model, const struct mal_tokenizer *tok,
                     const struct mal_editor *editor, const struct mal_fact *facts,
                     size_t n, size_t first, int64_t *out_tokens,
                     struct mal_error *err) MAL_CHECK;
/* The same for facts of a file, which the error names, too. */
bool mal_check_facts_of(const char *path, const struct mal_model *model,
                        const struct mal_tokenizer *tok, const struct mal_editor *editor,
                        const struct mal_fact *facts, size_t n,
                        struct mal_error *err) MAL_CHECK;
/* What the API asks of facts beyond that, of facts of a file that are to be taught: no
 * members that it does not know, ids as they may be. Data sets have forms of their own.
 */
bool mal_check_facts_form(const char *path, const struct mal_fact *facts, size_t n,
                          struct mal_error *err) MAL_CHECK;
/* And of those taught together, `batch` at a time: that ids differ, and no two have one
 * prompt and different targets. *out_contradicting: how many have that anywhere in the
 * file; in a data set this is nobody's mistake and refuses none. */
bool mal_check_facts_agree(const char *path, const struct mal_fact *facts, size_t n,
                           size_t batch, size_t *out_contradicting,
                           struct mal_error *err) MAL_CHECK;

#endif
