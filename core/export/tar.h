/* tar.h - files one after another in a tar (ustar), written to a file from its beginning:
 * the same files give the same bytes. */
#ifndef MAL_TAR_H
#define MAL_TAR_H

#include <stdint.h>

#include "core/error.h"

struct mal_new_file;

struct mal_tar {
    struct mal_new_file *file; /* borrowed; it must be possible to seek in it */
    const char *name;          /* of the member begun, borrowed */
    int64_t at;                /* where its header is */
};

/* What is written to the file until the end is the member `name`, shorter than 8 GiB. */
bool mal_tar_begin(struct mal_tar *tar, const char *name,
                   struct mal_error *err) MAL_CHECK;
bool mal_tar_end(struct mal_tar *tar, struct mal_error *err) MAL_CHECK;
bool mal_tar_close(struct mal_tar *tar, struct mal_error *err) MAL_CHECK;

#endif
