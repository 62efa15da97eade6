/* log.h - one JSON line per event on stderr: time, level, event, and what belongs to it.
 */
#ifndef MAL_LOG_H
#define MAL_LOG_H

/* `format` and what follows are jansson's json_pack() of an object, "{s:s,s:I}"; NULL:
 * nothing more. Any thread; a line is written whole. */
void mal_log(const char *level, const char *event, const char *format, ...);

#endif
