/* new_dir.h - directories written whole or not at all: beside the target as PATH.partial,
 * renamed into place. */
#ifndef MAL_NEW_DIR_H
#define MAL_NEW_DIR_H

#include "core/error.h"

struct mal_new_dir {
    const char *path; /* borrowed */
    char *partial;    /* where its files are to be made, owned; NULL: none open */
};

/* Whether a directory could be made there: nothing but an empty one is, and its parent
 * can be written to. */
bool mal_new_dir_check(const char *path, struct mal_error *err) MAL_CHECK;
/* What a killed process has left in the partial directory is removed. */
bool mal_new_dir_open(struct mal_new_dir *out, const char *path,
                      struct mal_error *err) MAL_CHECK;
/* The files must have been synced. On failure nothing is left but what was there. */
bool mal_new_dir_commit(struct mal_new_dir *dir, struct mal_error *err) MAL_CHECK;
/* Removes it and the files in it; takes a zeroed or committed one. */
void mal_new_dir_abandon(struct mal_new_dir *dir);

#endif
