/* file.c - small files, read whole. */
#include "core/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/utf8.h"

const char *mal_file_shown(const char *path) {
    const size_t longest = 180;
    size_t n = strlen(path);
    if (n <= longest) return path;
    path += n - longest;
    while (((unsigned char)*path & 0xc0) == 0x80)
        path++; /* not amid a character */
    return path;
}

char *mal_file_join(const char *dir, const char *name) {
    size_t n = strlen(dir), bytes = n + strlen(name) + 2;
    char *path = mal_malloc(bytes);
    if (!path) return NULL;
    snprintf(path, bytes, "%s%s%s", dir, n > 0 && dir[n - 1] == '/' ? "" : "/", name);
    return path;
}

static bool fail_errno(struct mal_error *err, const char *path) {
    enum mal_status status = errno == ENOENT || errno == ENOTDIR ? MAL_NOT_FOUND : MAL_IO;
    return mal_fail(err, status, "%s: %s", mal_file_shown(path), strerror(errno));
}

/* Reads to the end of the file; *data grows from `room` bytes and stays the caller's to
 * free. */
static bool read_all(int fd, const char *path, char **data, size_t room, size_t max_bytes,
                     size_t *out_bytes, struct mal_error *err) {
    size_t used = 0;
    for (;;) {
        if (!*data || used + 1 == room) {
            if (*data) room *= 2;
            char *grown = mal_realloc(*data, room);
            if (!grown) return mal_fail(err, MAL_NO_MEMORY, "%s", mal_file_shown(path));
            *data = grown;
        }
        ssize_t n = read(fd, *data + used, room - 1 - used);
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return fail_errno(err, path);
        if (n == 0) break;
        used += (size_t)n;
        if (used > max_bytes)
            return mal_fail(err, MAL_TOO_LARGE, "%s: longer than %zu bytes",
                            mal_file_shown(path), max_bytes);
    }
    (*data)[used] = '\0';
    *out_bytes = used;
    return true;
}

bool mal_file_read(char **out, size_t *out_bytes, const char *path, size_t max_bytes,
                   struct mal_error *err) {
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) return fail_errno(err, path);
    struct stat st;
    size_t room =
        65536; /* one byte more than the file, so that its end is seen without growing */
    if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && (uint64_t)st.st_size <= max_bytes)
        room = (size_t)st.st_size + 2;

    char *data = NULL;
    bool ok = read_all(fd, path, &data, room, max_bytes, out_bytes, err);
    close(fd);
    if (!ok) {
        mal_free(data);
        return false;
    }
    *out = data;
    return true;
}

char *mal_file_beside(const char *path, const char *suffix) {
    size_t n = strlen(path), rest = strlen(suffix) + 1;
    while (n > 1 && path[n - 1] == '/')
        n--;
    char *beside = mal_malloc(n + rest);
    if (!beside) return NULL;
    memcpy(beside, path, n);
    memcpy(beside + n, suffix, rest);
    return beside;
}

char *mal_file_base(const char *path) {
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t at = n;
    while (at > 0 && path[at - 1] != '/')
        at--;
    char *name = mal_strdup(path + at);
    if (name) name[n - at] = 0;
    return name;
}

char *mal_file_label(const char *path) {
    char *name = mal_file_base(path), *label = name ? mal_utf8_fit(name) : NULL;
    mal_free(name);
    return label;
}
