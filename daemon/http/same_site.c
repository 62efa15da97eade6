/* same_site.c - the headers by which a browser tells where a request comes from. */
#include "daemon/http/same_site.h"

#include <string.h>
#include <strings.h>

const char *mal_after_scheme(const char *address) {
    if (!strncasecmp(address, "https://", 8)) return address + 8;
    return strncasecmp(address, "http://", 7) ? NULL : address + 7;
}

bool mal_is_cross_site(const char *method, const char *fetch_site, const char *origin,
                       const char *host) {
    if (!strcmp(method, "GET") || !strcmp(method, "HEAD")) return false;
    if (fetch_site && strcmp(fetch_site, "same-origin") && strcmp(fetch_site, "none")) {
        return true;
    }
    if (!origin) return false;
    const char *named = mal_after_scheme(origin);
    return !named || !host || strcasecmp(named, host) != 0;
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
