/* stop_text.h - texts that end an answer. */
#ifndef MAL_STOP_TEXT_H
#define MAL_STOP_TEXT_H

#include <stddef.h>

/* How many of the bytes stand before what may be the beginning of a stop text, when more
 * comes: none of them will be part of one, if none is in the text already. */
size_t mal_before_stop(const char *text, size_t bytes, const char *const *stop,
                       size_t n_stop);

#endif
