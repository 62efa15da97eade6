/* error.h - how anything in malmend fails.
 *
 * Fallible functions return bool and take `struct mal_error *err` last, never NULL. The
 * first error wins: a later mal_fail() on the same object is ignored, mal_fail_wrap()
 * only prepends context. Core never logs and never exits; the program logs each error
 * once, where it answers. */
#ifndef MAL_ERROR_H
#define MAL_ERROR_H

#include <stdbool.h>
#include <stddef.h>

#define MAL_CHECK __attribute__((warn_unused_result))

/* name, HTTP status, title */
#define MAL_STATUS_MAP(X)                                   \
    X(OK, 200, "ok")                                        \
    X(MALFORMED, 400, "malformed request")                  \
    X(NOT_FOUND, 404, "not found")                          \
    X(CONFLICT, 409, "conflicts with the current state")    \
    X(TOO_LARGE, 413, "too large")                          \
    X(INVALID, 422, "invalid content")                      \
    X(BUSY, 429, "queue full")                              \
    X(CORRUPT, 500, "stored data is corrupt")               \
    X(IO, 500, "input/output error")                        \
    X(NUMERIC, 500, "the computation has no usable result") \
    X(DEVICE, 500, "compute device failed")                 \
    X(NO_MEMORY, 503, "out of memory")                      \
    X(NOT_READY, 503, "not ready")                          \
    X(CANCELLED, 503, "cancelled")                          \
    X(NO_SPACE, 507, "no space left")

enum mal_status {

#define MAL_STATUS_ENUM(name, http, title) MAL_##name,
    MAL_STATUS_MAP(MAL_STATUS_ENUM)
#undef MAL_STATUS_ENUM
};

struct mal_error {
    enum mal_status status;
    char text[512];    /* one sentence that names the file, tensor or field */
    char pointer[128]; /* JSON pointer into the request ("/facts/3/target"), or empty */
};

/* Records the error unless one is there already; always false. MAL_NO_MEMORY: the text
 * names what there was no memory for, and ": out of memory" is added. */
bool mal_fail(struct mal_error *err, enum mal_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* As mal_fail(), and says which field of the request is at fault. */
bool mal_fail_at(struct mal_error *err, enum mal_status status, const char *pointer,
                 const char *format, ...) __attribute__((format(printf, 4, 5)));

/* Prepends "context: " to the error on its way up; always false. */
bool mal_fail_wrap(struct mal_error *err, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

int mal_status_http(enum mal_status status);
/* MAL_NO_SPACE of a full disk or quota, else MAL_IO. */
enum mal_status mal_status_of_errno(int number);
const char *mal_status_title(enum mal_status status);

#endif
