/* log.h - one JSON line per event on stderr: time, level, event, and what belongs to it.
 */
#ifndef MAL_LOG_H
#define MAL_LOG_H

#include <stdint.h>

/* `format` and what follows are jansson's json_pack() of an object, "{s:s,s:I}"; NULL:
 * nothing more. Any thread; a line is written whole. */
void mal_log(const char *level, const char *event, const char *format, ...);

/* What a client sent, for a line: what is not UTF-8 is replaced, the end cut off. */
enum { MAL_LOG_TEXT_BYTES = 512 };

void mal_log_text(const char *text, char out[MAL_LOG_TEXT_BYTES]);

/* How many so far. */
uint64_t mal_log_lines(const char *level);

#endif
