/* tar.c - headers are written when the size is known, into the room left for them. */
#include "core/export/tar.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "core/new_file.h"

enum { BLOCK = 512 };

static const int64_t MAX_BYTES = (int64_t)1 << 33; /* eleven octal digits */

static bool fail_errno(const struct mal_tar *tar, struct mal_error *err) {
    return mal_fail(err, mal_status_of_errno(errno), "%s: %s", tar->file->path,
                    strerror(errno));
}

static bool position(const struct mal_tar *tar, int64_t *out, struct mal_error *err) {
    *out = lseek(tar->file->fd, 0, SEEK_CUR);
    return *out >= 0 || fail_errno(tar, err);
}

static bool put_zeros(const struct mal_tar *tar, size_t n, struct mal_error *err) {
    static const char zeros[2 * BLOCK];
    return mal_new_file_write(tar->file, zeros, n, err);
}

bool mal_tar_begin(struct mal_tar *tar, const char *name, struct mal_error *err) {
    tar->name = name;
    return position(tar, &tar->at, err) && put_zeros(tar, BLOCK, err);
}

/* Owner, group and time are 0: nothing here depends on who writes, or when. */
static void make_header(const char *name, int64_t bytes, char out[BLOCK]) {
    memset(out, 0, BLOCK);
    snprintf(out, 100, "%s", name);
    snprintf(out + 100, 8, "%07o", 0644);
    snprintf(out + 108, 8, "%07o", 0);
    snprintf(out + 116, 8, "%07o", 0);
    snprintf(out + 124, 12, "%011" PRIo64, (uint64_t)bytes);
    snprintf(out + 136, 12, "%011o", 0);
    memset(out + 148, ' ', 8); /* what the sum takes its own field for */
    out[156] = '0';
    memcpy(out + 257,
           "ustar\0"
           "00",
           8);
    unsigned sum = 0;
    for (int i = 0; i < BLOCK; i++)
        sum += (unsigned char)out[i];
    snprintf(out + 148, 8, "%06o", sum);
}

bool mal_tar_end(struct mal_tar *tar, struct mal_error *err) {
    int64_t end;
    char header[BLOCK];
    if (!position(tar, &end, err)) return false;
    int64_t bytes = end - tar->at - BLOCK;
    if (bytes >= MAX_BYTES) {
        return mal_fail(err, MAL_TOO_LARGE, "%s has %" PRId64 " bytes: too many for tar",
                        tar->name, bytes);
    }
    make_header(tar->name, bytes, header);
    if (pwrite(tar->file->fd, header, BLOCK, tar->at) != BLOCK)
        return fail_errno(tar, err);
    return put_zeros(tar, (size_t)(-bytes & (BLOCK - 1)), err);
}

bool mal_tar_close(struct mal_tar *tar, struct mal_error *err) {
    return put_zeros(tar, 2 * (size_t)BLOCK, err);
}
