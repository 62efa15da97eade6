/* utf8.h - UTF-8, strictly: no overlong forms, no surrogates, nothing above U+10FFFF. */
#ifndef MAL_UTF8_H
#define MAL_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The character at the start of `bytes` bytes, at least one. Returns its length and
 * writes the code point, or -1 and the length of the longest start of a character that
 * stands there (at least 1): what a reader replaces by one U+FFFD. */
size_t mal_utf8_next(const char *text, size_t bytes, int32_t *out_point);

/* Writes the code point, which must be valid, and returns its 1 to 4 bytes. */
size_t mal_utf8_put(int32_t point, char out[4]);

bool mal_utf8_valid(const char *text, size_t bytes);

/* A copy, owned, in which U+FFFD stands where there was no UTF-8. NULL: out of memory. */
char *mal_utf8_fit(const char *text);

/* How many bytes are left when a character that is cut at the end is left out: what a
 * stream may send now. Bytes that no further byte can make valid are not held back. */
size_t mal_utf8_complete_prefix(const char *text, size_t bytes);

#endif
