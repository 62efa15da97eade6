/* tokens.c - reading the file, and comparing in constant time. */
#include "daemon/http/tokens.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/file.h"

enum { MAX_FILE = 1 << 20 };

bool mal_token_name_valid(const char *name) {
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    size_t n = strspn(name, allowed);
    return n > 0 && n < MAL_TOKEN_NAME_BYTES && !name[n] && strcmp(name, "local") != 0;
}

/* ---- The file ---- */

/* Nothing of a bad line is shown: it may be where somebody pasted the token itself. */
static bool fail_line(struct mal_error *err, const char *path, size_t line,
                      const char *why, const char *name) {
    return mal_fail(err, MAL_INVALID, "tokens '%s', line %zu: %s%s%s%s",
                    mal_file_shown(path), line, why, name ? " '" : "", name ? name : "",
                    name ? "'" : "");
}

static bool check_new(const struct mal_tokens *tokens, const struct mal_token *token,
                      const char *path, size_t line, struct mal_error *err) {
    struct mal_hash nothing = mal_hash_of("", 0);
    if (mal_hash_equal(&token->hash, &nothing)) {
        return fail_line(err, path, line, "this is the hash of an empty token", NULL);
    }
    for (size_t i = 0; i < tokens->n; i++) {
        if (strcmp(tokens->list[i].name, token->name) == 0) {
            return fail_line(err, path, line,
                             "there is a token of this name already:", token->name);
        }
        if (mal_hash_equal(&tokens->list[i].hash, &token->hash)) {
            return fail_line(err, path, line, "this is the same token as",
                             tokens->list[i].name);
        }
    }
    return true;
}

static bool read_line(struct mal_tokens *tokens, char *text, const char *path,
                      size_t line, struct mal_error *err) {
    static const char blanks[] = " \t\r";
    char *rest = NULL;
    char *name = strtok_r(text, blanks, &rest);
    if (!name || *name == '#') return true;
    char *role = strtok_r(NULL, blanks, &rest), *hash = strtok_r(NULL, blanks, &rest);
    if (!role || !hash) {
        return fail_line(err, path, line, "expected NAME ROLE SHA256", NULL);
    }
    struct mal_token *token = &tokens->list[tokens->n];
    if (!mal_token_name_valid(name)) {
        return fail_line(
            err, path, line,
            "the first word is no name, which has 1 to 64 characters of A-Z, "
            "a-z, 0-9, '.', '_', '-', and is not 'local'",
            NULL);
    }
    memcpy(token->name, name, strlen(name) + 1);
    if (!mal_role_from_name(role, &token->role)) {
        return fail_line(err, path, line,
                         "the second word is no role; roles are read, infer, edit, admin",
                         NULL);
    }
    if (!mal_hash_from_hex(&token->hash, hash)) {
        return fail_line(err, path, line, "the third word is no SHA-256 in hexadecimal",
                         NULL);
    }
    if (strtok_r(NULL, blanks, &rest)) {
        return fail_line(err, path, line, "more than three words", NULL);
    }
    if (!check_new(tokens, token, path, line, err)) return false;
    tokens->n++;
    return true;
}

static bool read_lines(struct mal_tokens *tokens, char *text, size_t bytes,
                       const char *path, struct mal_error *err) {
    size_t n_lines = 1, line = 0;
    if (memchr(text, 0, bytes)) {
        return mal_fail(err, MAL_INVALID, "tokens '%s': there is a zero byte in it",
                        mal_file_shown(path));
    }
    for (size_t i = 0; i < bytes; i++)
        n_lines += text[i] == '\n';
    tokens->list = mal_calloc(n_lines, sizeof *tokens->list);
    if (!tokens->list) return mal_fail(err, MAL_NO_MEMORY, "%zu tokens", n_lines);
    while (text) {
        char *end = strchr(text, '\n');
        if (end) *end++ = '\0';
        if (!read_line(tokens, text, path, ++line, err)) return false;
        text = end;
    }
    if (tokens->n > 0) return true;
    return mal_fail(err, MAL_INVALID, "tokens '%s': there is no token in it",
                    mal_file_shown(path));
}

static bool check_file(int fd, const char *path, bool *out_exposed,
                       struct mal_error *err) {
    struct stat info;
    const char *shown = mal_file_shown(path);
    if (fstat(fd, &info)) {
        return mal_fail(err, MAL_IO, "tokens '%s': %s", shown, strerror(errno));
    }
    if (!S_ISREG(info.st_mode)) {
        return mal_fail(err, MAL_INVALID, "tokens '%s': not a regular file", shown);
    }
    if (info.st_uid != 0 && info.st_uid != geteuid()) {
        return mal_fail(err, MAL_INVALID,
                        "tokens '%s': user %lld owns it; whoever owns it decides who may "
                        "do what, so it must be root or the daemon's own user",
                        shown, (long long)info.st_uid);
    }
    if (info.st_mode & (S_IWGRP | S_IWOTH)) {
        return mal_fail(err, MAL_INVALID,
                        "tokens '%s': %s may write it (mode %03o); try chmod go-w", shown,
                        info.st_mode & S_IWOTH ? "everybody" : "its group",
                        (unsigned)info.st_mode & 0777);
    }
    *out_exposed = info.st_mode & S_IROTH;
    return true;
}

/* The checks and the bytes are of the same file, whatever the path means a moment later.
 */
static bool read_file(int fd, const char *path, char **out, size_t *out_bytes,
                      struct mal_error *err) {
    char *text = mal_malloc(MAX_FILE + 1);
    size_t n = 0;
    if (!text) return mal_fail(err, MAL_NO_MEMORY, "tokens");
    while (n <= MAX_FILE) {
        ssize_t got = read(fd, text + n, MAX_FILE + 1 - n);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) {
            mal_fail(err, MAL_IO, "tokens '%s': %s", mal_file_shown(path),
                     strerror(errno));
            goto fail;
        }
        if (got == 0) break;
        n += (size_t)got;
    }
    if (n > MAX_FILE) {
        mal_fail(err, MAL_TOO_LARGE, "tokens '%s': more than %d bytes",
                 mal_file_shown(path), MAX_FILE);
        goto fail;
    }
    text[n] = '\0';
    *out = text;
    *out_bytes = n;
    return true;

fail:
    mal_free(text);
    return false;
}

bool mal_tokens_load(struct mal_tokens **out, const char *path, struct mal_error *err) {
    char *text = NULL;
    size_t bytes = 0;
    struct mal_tokens *tokens = mal_calloc(1, sizeof *tokens);
    if (!tokens) return mal_fail(err, MAL_NO_MEMORY, "tokens");
    /* A pipe in its place would be waited for. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        mal_fail(err, errno == ENOENT ? MAL_NOT_FOUND : MAL_IO, "tokens '%s': %s",
                 mal_file_shown(path), strerror(errno));
    }
    bool ok = fd >= 0 && check_file(fd, path, &tokens->exposed, err) &&
              read_file(fd, path, &text, &bytes, err) &&
              read_lines(tokens, text, bytes, path, err);
    if (fd >= 0) close(fd);
    mal_free(text);
    if (ok) {
        *out = tokens;
    } else {
        mal_tokens_free(tokens);
    }
    return ok;
}

void mal_tokens_free(struct mal_tokens *tokens) {
    if (!tokens) return;
    mal_free(tokens->list);
    mal_free(tokens);
}

/* ---- Comparing ---- */

/* All ones where the hashes are equal, else zero; no branch and no early end. */
static size_t equal_mask(const struct mal_hash *a, const struct mal_hash *b) {
    uint32_t differ = 0;
    for (size_t i = 0; i < MAL_HASH_BYTES; i++)
        differ |= (uint32_t)(a->bytes[i] ^ b->bytes[i]);
    return (size_t)0 - (size_t)((differ - 1) >> 31);
}

const struct mal_token *mal_tokens_find(const struct mal_tokens *tokens, const char *text,
                                        size_t bytes) {
    struct mal_hash hash = mal_hash_of(text, bytes);
    size_t found = 0; /* 1 + its index */
    for (size_t i = 0; i < tokens->n; i++)
        found |= equal_mask(&hash, &tokens->list[i].hash) & (i + 1);
    return found ? &tokens->list[found - 1] : NULL;
}
