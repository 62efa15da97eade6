/* same_site.c - the headers by which a browser tells where a request comes from. */
#include "daemon/same_site.h"

#include <string.h>
#include <strings.h>

bool mal_is_cross_site(const char *method, const char *fetch_site, const char *origin,
                       const char *host) {
    if (!strcmp(method, "GET") || !strcmp(method, "HEAD")) return false;
    if (fetch_site && strcmp(fetch_site, "same-origin") && strcmp(fetch_site, "none")) {
        return true;
    }
    if (!origin) return false;
    size_t scheme = !strncasecmp(origin, "https://", 8)  ? 8
                    : !strncasecmp(origin, "http://", 7) ? 7
                                                         : 0;
    return !scheme || !host || strcasecmp(origin + scheme, host) != 0;
}

/* Bytes of a host without its port; 0: it is none. */
static size_t host_bytes(const char *host) {
    size_t n = *host == '[' ? strcspn(host, "]") + 1 : strcspn(host, ":");
    if (*host == '[' && host[n - 1] != ']') return 0;
    const char *rest = host + n;
    if (!*rest) return n;
    return *rest == ':' && !rest[1 + strspn(rest + 1, "0123456789")] ? n : 0;
}

bool mal_is_own_host(const char *host, const char *address) {
    const char *const own[] = {"localhost", "127.0.0.1", "[::1]", address};
    size_t n = host_bytes(host);
    if (!n) return false;
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        if (host_bytes(own[i]) == n && !strncasecmp(host, own[i], n)) return true;
    }
    return false;
}
