/* unicode.h - characters as Hugging Face's package sees them.
 *
 * Decompositions, compositions and lower case are utf8proc's, which is newer than that
 * package's tables; where the two differ, the package is followed: models were trained
 * with what it gives. */
#ifndef MAL_UNICODE_H
#define MAL_UNICODE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"

struct mal_string;

struct mal_range {
    int32_t first, last;
};

struct mal_range_table {
    const struct mal_range *ranges; /* ascending */
    size_t n;
};

extern const struct mal_range_table mal_control_table;     /* what BERT drops */
extern const struct mal_range_table mal_nonspacing_table;  /* Mn */
extern const struct mal_range_table mal_mark_table;        /* Mn, Mc, Me */
extern const struct mal_range_table mal_punctuation_table; /* P, and ASCII's symbols */
/* Newer characters, which stay as they are and neither move nor compose. */
extern const struct mal_range_table mal_unknown_to_forms_table;

/* Of grapheme clusters (UAX 29): Control, CR and LF; Prepend; Extend, ZWJ, SpacingMark.
 */
extern const struct mal_range_table mal_cluster_control_table;
extern const struct mal_range_table mal_cluster_prepend_table;
extern const struct mal_range_table mal_cluster_mark_table;

bool mal_in_table(const struct mal_range_table *table, int32_t point);
bool mal_is_space(int32_t point); /* Unicode's White_Space */

/* Appends the lower case of valid UTF-8, character by character. */
bool mal_append_lower(struct mal_string *out, const char *text, size_t bytes,
                      struct mal_error *err) MAL_CHECK;

enum mal_form { MAL_NFC, MAL_NFD, MAL_NFKC, MAL_NFKD };

/* Appends the normalization form of valid UTF-8; linear in its length. */
bool mal_append_form(struct mal_string *out, enum mal_form form, const char *text,
                     size_t bytes, struct mal_error *err) MAL_CHECK;

#endif
