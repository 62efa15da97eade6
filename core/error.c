/* error.c - the text of errors. */
#include "core/error.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

bool mal_fail(struct mal_error *err, enum mal_status status, const char *format, ...) {
    if (err->status != MAL_OK) return false;
    err->status = status;
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
    va_end(args);
    return false;
}

bool mal_fail_at(struct mal_error *err, enum mal_status status, const char *pointer,
                 const char *format, ...) {
    if (err->status != MAL_OK) return false;
    err->status = status;
    snprintf(err->pointer, sizeof err->pointer, "%s", pointer);
    va_list args;
    va_start(args, format);
    vsnprintf(err->text, sizeof err->text, format, args);
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
