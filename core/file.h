/* file.h - small files, read whole. */
#ifndef MAL_FILE_H
#define MAL_FILE_H

#include "core/error.h"

/* The file's bytes and a closing zero that is not counted, at most max_bytes; pipes too.
 * Owned by the caller: mal_free(). A missing file is MAL_NOT_FOUND, a longer one
 * MAL_TOO_LARGE. */
bool mal_file_read(char **out, size_t *out_bytes, const char *path, size_t max_bytes,
                   struct mal_error *err) MAL_CHECK;

/* "dir/name", owned by the caller: mal_free(). NULL: out of memory. */
char *mal_file_join(const char *dir, const char *name);

/* "path" and a suffix, slashes at the path's end aside: a file beside another. Owned by
 * the caller: mal_free(). NULL: out of memory. */
char *mal_file_beside(const char *path, const char *suffix);

/* The last part of a path, slashes at its end aside; owned by the caller: mal_free().
 * NULL: out of memory. */
char *mal_file_base(const char *path);
/* The same as a name to be shown: always UTF-8. */
char *mal_file_label(const char *path);

/* The end of a long path, the whole of a short one: what messages show, so that the path
 * leaves room for what is wrong with the file. */
const char *mal_file_shown(const char *path);

#endif
