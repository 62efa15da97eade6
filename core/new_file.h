/* new_file.h - files written whole or not at all: to a temporary name beside the target,
 * PATH.tmp-0 or the next that is free, synced, renamed into place. What a killed process
 * has left there is removed by the next who writes, sweeps or removes PATH. */
#ifndef MAL_NEW_FILE_H
#define MAL_NEW_FILE_H

#include "core/error.h"

struct mal_new_file {
    const char *path; /* borrowed */
    char *name;       /* of the temporary file, owned; NULL: none open */
    int fd;
};

/* Whether there is a directory that a file at `path` could be made in. */
bool mal_new_file_check_place(const char *path, struct mal_error *err) MAL_CHECK;
bool mal_new_file_open(struct mal_new_file *out, const char *path,
                       struct mal_error *err) MAL_CHECK;
/* A file without a name in the directory of `path`, which is borrowed: for reading and
 * writing by its descriptor, gone with the last one. Nothing to commit. */
bool mal_new_file_unnamed(struct mal_new_file *out, const char *path,
                          struct mal_error *err) MAL_CHECK;
bool mal_new_file_write(struct mal_new_file *file, const void *data, size_t bytes,
                        struct mal_error *err) MAL_CHECK;
/* Closes the file either way; on failure what was at the path is as it was. */
bool mal_new_file_commit(struct mal_new_file *file, struct mal_error *err) MAL_CHECK;
void mal_new_file_abandon(struct mal_new_file *file); /* takes a zeroed or closed one */
/* Removes what killed processes have left of a file at the path. */
bool mal_new_file_sweep(const char *path, struct mal_error *err) MAL_CHECK;
/* The file at the path, if there is one, and what killed processes have left of it. */
bool mal_new_file_remove(const char *path, struct mal_error *err) MAL_CHECK;
/* Makes the entries of the directory that `path` is in durable: after a rename. */
bool mal_sync_directory(const char *path, struct mal_error *err) MAL_CHECK;

#endif
