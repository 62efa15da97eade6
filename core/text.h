/* text.h - strings that come from files, made fit to stand in messages. */
#ifndef MAL_TEXT_H
#define MAL_TEXT_H

enum { MAL_TEXT_SHOWN = 104 }; /* bytes, with the closing zero */

/* `text` as it may stand in an error: at most 100 bytes, cut between characters and then
 * ending in "...", control characters as '?'. Returns `out`. */
const char *mal_text_shown(char out[MAL_TEXT_SHOWN], const char *text);

/* A message as the one line it is to be: control characters of what it quotes, such as a
 * path, become '?' where they stand. Returns `text`. */
char *mal_text_line(char *text);

#endif
