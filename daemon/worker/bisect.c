/* bisect.c - the search for bad facts: groups of the facts ahead are tried with those
 * kept; in a group that does not pass, halves lead to its first bad fact. */
#include "daemon/worker/bisect.h"

#include "core/alloc.h"

struct search {
    struct mal_bisect *found; /* its `kept` has room for all */
    size_t n, next;           /* next: the first fact that is not decided */
    size_t max_tries;
    bool (*try)(void *arg, const size_t *facts, size_t n, bool *passes,
                struct mal_error *err);
    void *arg;
    bool ended; /* a try was wanted that is not allowed */
};

/* Puts the next facts behind those kept. */
static void line_up(struct search *s, size_t n) {
    for (size_t i = 0; i < n; i++)
        s->found->kept[s->found->n_kept + i] = s->next + i;
}

static bool try_next(struct search *s, size_t n, bool *passes, struct mal_error *err) {
    *passes = false;
    s->ended = s->found->n_tries == s->max_tries;
    if (s->ended) return true;
    s->found->n_tries++;
    line_up(s, n);
    return s->try(s->arg, s->found->kept, s->found->n_kept + n, passes, err);
}

static void keep_next(struct search *s, size_t n) {
    line_up(s, n);
    s->found->n_kept += n;
    s->next += n;
}

static void reject_next(struct search *s) {
    s->found->rejected[s->found->n_rejected++] = s->next++;
}

/* The next `n` facts do not pass: those before the first bad one are kept. */
static bool reject_first_bad(struct search *s, size_t n, struct mal_error *err) {
    size_t good = 0, bad = n; /* so many pass, so many do not */
    while (bad - good > 1) {
        size_t half = good + (bad - good) / 2;
        bool passes;
        if (!try_next(s, half, &passes, err)) return false;
        if (s->ended) break;
        if (passes) {
            good = half;
        } else {
            bad = half;
        }
    }
    keep_next(s, good);
    if (!s->ended) reject_next(s);
    return true;
}

/* After the first bad fact all others are tried; the more groups fail, the smaller the
 * next one is, so that many bad facts do not cost a search of all facts each. */
static bool search(struct search *s, struct mal_error *err) {
    unsigned halvings = 0;
    bool known = true; /* all together do not pass */
    while (s->next < s->n && !s->ended) {
        size_t group = (s->n - s->next) >> halvings;
        bool passes = false;
        if (group == 0) group = 1;
        if (!known && !try_next(s, group, &passes, err)) return false;
        if (s->ended) break;
        if (passes) {
            keep_next(s, group);
            if (halvings > 0) halvings--;
        } else {
            if (!reject_first_bad(s, group, err)) return false;
            if (group > 1 && !known) halvings++;
        }
        known = false;
    }
    s->found->n_undecided = s->n - s->next;
    while (s->next < s->n)
        reject_next(s);
    return true;
}

bool mal_bisect_run(struct mal_bisect *out, size_t n, size_t max_tries,
                    bool (*try)(void *arg, const size_t *facts, size_t n, bool *passes,
                                struct mal_error *err),
                    void *arg, struct mal_error *err) {
    struct mal_bisect found = {.kept = mal_calloc(n, sizeof(size_t)),
                               .rejected = mal_calloc(n, sizeof(size_t))};
    struct search s = {
        .found = &found, .n = n, .max_tries = max_tries, .try = try, .arg = arg};
    bool ok = (found.kept && found.rejected) ||
              mal_fail(err, MAL_NO_MEMORY, "search among %zu facts", n);
    ok = ok && search(&s, err);
    if (!ok) {
        mal_bisect_finish(&found);
        return false;
    }
    *out = found;
    return true;
}

void mal_bisect_finish(struct mal_bisect *bisect) {
    mal_free(bisect->kept);
    mal_free(bisect->rejected);
    *bisect = (struct mal_bisect){0};
}
