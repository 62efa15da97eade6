/* log.h - one JSON line per event on stderr: time, level, event, and what belongs to it.
 *
 * Whoever reads stderr may be slow, or not read at all. Between mal_log_start() and
 * mal_log_stop() nobody who logs waits for that: a thread writes, from a queue of
 * MAL_LOG_QUEUE_BYTES. What finds it full is dropped and counted, and a line says so when
 * there is room again; `info` leaves a quarter to warnings and errors. */
#ifndef MAL_LOG_H
#define MAL_LOG_H

#include <stdint.h>

#include "core/error.h"

enum { MAL_LOG_QUEUE_BYTES = 256 << 10 };

bool mal_log_start(struct mal_error *err) MAL_CHECK;
/* Waits until all is written, for a second at most. */
void mal_log_flush(void);
/* The same, and ends the thread: whoever logs after this writes the line itself. Does
 * nothing where none was started. */
void mal_log_stop(void);

/* `format` and what follows are jansson's json_pack() of an object, "{s:s,s:I}"; NULL:
 * nothing more. Any thread; a line is written whole, after those logged before it. */
void mal_log(const char *level, const char *event, const char *format, ...);

/* What a client sent, for a line: what is not UTF-8 is replaced, the end cut off. */
enum { MAL_LOG_TEXT_BYTES = 512 };

void mal_log_text(const char *text, char out[MAL_LOG_TEXT_BYTES]);

/* How many so far, those that were dropped among them. */
uint64_t mal_log_lines(const char *level);
uint64_t mal_log_dropped(void);

#endif
