/* error.c - the text of errors. */
#include "core/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* What lacked memory is named by the caller; that it was memory is said here. */
static void write_text(struct mal_error *err, enum mal_status status, const char *format,
                       va_list args) {
    err->status = status;
    int n = vsnprintf(err->text, sizeof err->text, format, args);
    if (status == MAL_NO_MEMORY && n >= 0 && (size_t)n < sizeof err->text &&
        !strstr(err->text, "memory"))
        snprintf(err->text + n, sizeof err->text - (size_t)n, ": out of memory");
}

bool mal_fail(struct mal_error *err, enum mal_status status, const char *format, ...) {
    if (err->status != MAL_OK) return false;
    va_list args;
    va_start(args, format);
    write_text(err, status, format, args);
    va_end(args);
    return false;
}

bool mal_fail_at(struct mal_error *err, enum mal_status status, const char *pointer,
                 const char *format, ...) {
    if (err->status != MAL_OK) return false;
    snprintf(err->pointer, sizeof err->pointer, "%s", pointer);
    va_list args;
    va_start(args, format);
    write_text(err, status, format, args);
    va_end(args);
    return false;
}

bool mal_fail_wrap(struct mal_error *err, const char *format, ...) {
    char context[256];
    va_list args;
    va_start(args, format);
    vsnprintf(context, sizeof context, format, args);
    va_end(args);

    char text[sizeof err->text];
    memcpy(text, err->text, sizeof text);
    size_t n = (size_t)snprintf(err->text, sizeof err->text, "%s: ", context);
    if (n < sizeof err->text) snprintf(err->text + n, sizeof err->text - n, "%s", text);
    return false;
}

enum mal_status mal_status_of_errno(int number) {
    return number == ENOSPC || number == EDQUOT ? MAL_NO_SPACE : MAL_IO;
}

int mal_status_http(enum mal_status status) {
    static const int http[] = {
#define MAL_STATUS_HTTP(name, http, title) http,
        MAL_STATUS_MAP(MAL_STATUS_HTTP)
#undef MAL_STATUS_HTTP
    };
    return http[status];
}

const char *mal_status_title(enum mal_status status) {
    static const char *const titles[] = {
#define MAL_STATUS_TITLE(name, http, title) title,
        MAL_STATUS_MAP(MAL_STATUS_TITLE)
#undef MAL_STATUS_TITLE
    };
    return titles[status];
}
