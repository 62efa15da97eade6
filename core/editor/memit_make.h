/* memit_make.h - what MEMIT needs to know of a model before it edits it. */
#ifndef MAL_MEMIT_MAKE_H
#define MAL_MEMIT_MAKE_H

#include "core/editor/editor.h"
#include "core/editor/memit.h"
#include "core/editor/progress.h"

/* Gives an editor of mal_editor_create_direct() its second moments, measured over all
 * tokens of `texts`, each run alone, and its contexts: the prompt alone, and sentences
 * that the model makes up from a seed, as published: one from each of five first words,
 * of ten tokens. The editor is bound to `model` afterwards. Moments that are singular are
 * MAL_INVALID: more text is needed. *out_tokens: how many there
 * were. Ticks are of MAL_STAGE_GRAM. */
bool mal_memit_make(struct mal_editor *editor, struct mal_model *model,
                    const struct mal_tokenizer *tok,
                    const struct mal_preserve_texts *texts, uint64_t seed,
                    const struct mal_progress *progress, int64_t *out_tokens,
                    struct mal_error *err) MAL_CHECK;

#endif
