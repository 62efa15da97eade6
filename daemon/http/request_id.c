/* request_id.c - what of a client's ids is taken over. */
#include "daemon/http/request_id.h"

#include <stddef.h>
#include <string.h>

static const char hex[] = "0123456789abcdef";

bool mal_request_id_valid(const char *text) {
    static const char allowed[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-";
    if (!text || !*text) return false;
    size_t n = strspn(text, allowed);
    return !text[n] && n < MAL_REQUEST_ID_BYTES;
}

/* `n` lower-case hex digits, not all of them zero unless `may_be_zero`. */
static bool is_hex(const char *text, size_t n, bool may_be_zero) {
    return strspn(text, hex) >= n && (may_be_zero || strspn(text, "0") < n);
}

/* https://www.w3.org/TR/trace-context/#traceparent-header */
void mal_trace_id(const char *traceparent, char out[MAL_TRACE_ID_BYTES]) {
    enum { TRACE = 3, PARENT = 36, FLAGS = 53, END = 55, DIGITS = 32 };

    const char *text = traceparent;
    out[0] = '\0';
    if (!text || strlen(text) < END) return;
    bool ok = is_hex(text, 2, true) && strncmp(text, "ff", 2) != 0 &&
              text[TRACE - 1] == '-' && is_hex(text + TRACE, DIGITS, false) &&
              text[PARENT - 1] == '-' && is_hex(text + PARENT, 16, false) &&
              text[FLAGS - 1] == '-' && is_hex(text + FLAGS, 2, true);
    bool first = strncmp(text, "00", 2) == 0;
    if (!ok || (text[END] && (first || text[END] != '-'))) return;
    memcpy(out, text + TRACE, DIGITS);
    out[DIGITS] = '\0';
}
