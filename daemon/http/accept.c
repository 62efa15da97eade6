/* accept.c - the ranges of an Accept header against media types. Parameters but the
 * weight are left aside: none of our types has a choice of them. */
#include "daemon/http/accept.h"

#include <string.h>
#include <strings.h>

static const char BLANKS[] = " \t";

struct range {
    const char *text; /* "text/html", n bytes */
    size_t n;
    bool refused; /* weight 0 */
};

/* "q=0", "q=0.000" */
static bool is_no_weight(const char *parameter, size_t n) {
    return n > 2 && !strncasecmp(parameter, "q=0", 3) &&
           3 + strspn(parameter + 3, ".0") >= n;
}

/* The range that begins here; what follows it. */
static const char *read_range(const char *p, struct range *out) {
    out->text = p += strspn(p, BLANKS);
    out->n = strcspn(p, " \t;,");
    out->refused = false;
    for (p += out->n; *p && *p != ','; p += strcspn(p, ";,")) {
        p += strspn(p, " \t;");
        if (is_no_weight(p, strcspn(p, " \t;,"))) out->refused = true;
    }
    return *p ? p + 1 : p;
}

/* 0: it is another type; the more, the more precisely it is meant. */
static int precision(const struct range *range, const char *type, size_t n) {
    size_t major = strcspn(type, "/") + 1;
    if (range->n == n && !strncasecmp(range->text, type, n)) return 3;
    bool all = range->n > 1 && range->text[range->n - 1] == '*';
    if (all && range->n == major + 1 && !strncasecmp(range->text, type, major)) return 2;
    return range->n == 3 && !strncmp(range->text, "*/*", 3);
}

static bool accepts_type(const char *accept, const char *type, size_t n) {
    bool formed = false, refused = false;
    int best = 0;
    while (*accept) {
        struct range range;
        accept = read_range(accept, &range);
        if (memchr(range.text, '/', range.n)) formed = true;
        int fits = precision(&range, type, n);
        if (fits <= best) continue;
        best = fits;
        refused = range.refused;
    }
    return !formed || (best && !refused);
}

bool mal_accepts(const char *accept, const char *types) {
    if (!accept) return true;
    for (size_t n; *types; types += n + strspn(types + n, ", ")) {
        n = strcspn(types, ",");
        if (accepts_type(accept, types, n)) return true;
    }
    return false;
}
