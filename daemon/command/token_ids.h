/* token_ids.h - token ids written as text: a line of numbers separated by blanks. */
#ifndef MAL_TOKEN_IDS_H
#define MAL_TOKEN_IDS_H

#include "core/tokenizer/tokenizer.h"

/* Appends one id; MAL_INVALID where no vocabulary can have it. */
bool mal_token_ids_push(struct mal_ids *ids, int64_t id, struct mal_error *err) MAL_CHECK;
/* Appends the ids of a line of `bytes`, which a zero follows. */
bool mal_token_ids_parse(struct mal_ids *ids, const char *line, size_t bytes,
                         struct mal_error *err) MAL_CHECK;

#endif
