/* wire_claims.c - what the facts of one request must be together. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/hash.h"
#include "proto/wire_impl.h"

/* A text that is taught and its target, without the spaces at their seam. */
struct mal_claim {
    uint8_t text[16], target[16], id[16]; /* of their SHA-256 */
    uint32_t index;                       /* of the fact */
    bool has_id;                          /* not with further phrasings */
};

static void put_hash(uint8_t out[16], const char *text, size_t bytes) {
    struct mal_hash hash = mal_hash_of(text, bytes);
    memcpy(out, hash.bytes, 16);
}

static bool make_room(struct mal_claims *claims, size_t more, struct mal_error *err) {
    size_t need = claims->n_claims + more, capacity = claims->capacity;
    if (need <= capacity) return true;
    for (capacity = capacity ? capacity : 16; capacity < need;)
        capacity *= 2;
    void *list = mal_realloc(claims->list, capacity * sizeof *claims->list);
    if (!list) return mal_fail(err, MAL_NO_MEMORY, "comparing %zu facts", capacity);
    claims->list = list;
    claims->capacity = capacity;
    return true;
}

bool mal_claims_add(struct mal_claims *claims, const struct mal_fact *fact,
                    struct mal_error *err) {
    if (!make_room(claims, fact->n_prompts + 1, err)) return false;
    struct mal_claim claim = {.index = (uint32_t)claims->n++, .has_id = fact->id != NULL};
    const char *target = fact->target + strspn(fact->target, " ");
    put_hash(claim.target, target, strlen(target));
    if (fact->id) put_hash(claim.id, fact->id, strlen(fact->id));
    for (size_t i = 0; i <= fact->n_prompts; i++) {
        const char *text = mal_fact_text(fact, i);
        put_hash(claim.text, text, mal_prompt_bytes(text));
        claims->list[claims->n_claims++] = claim;
        claim.has_id = false;
    }
    return true;
}

static int in_order(const struct mal_claim *x, const struct mal_claim *y) {
    return x->index < y->index ? -1 : x->index > y->index;
}

static int by_text(const void *a, const void *b) {
    const struct mal_claim *x = a, *y = b;
    int order = memcmp(x->text, y->text, sizeof x->text);
    return order ? order : in_order(x, y);
}

/* What has no id last. */
static int by_id(const void *a, const void *b) {
    const struct mal_claim *x = a, *y = b;
    if (x->has_id != y->has_id) return x->has_id ? -1 : 1;
    int order = memcmp(x->id, y->id, sizeof x->id);
    return order ? order : in_order(x, y);
}

/* From *i on, by text, the next that has another target than the first of its text. */
static bool find_other(const struct mal_claim *list, size_t n, size_t *first, size_t *i) {
    for (; *i < n; (*i)++) {
        const struct mal_claim *one = &list[*first], *other = &list[*i];
        if (memcmp(one->text, other->text, sizeof one->text) != 0) {
            *first = *i;
        } else if (memcmp(one->target, other->target, sizeof one->target) != 0) {
            return true;
        }
    }
    return false;
}

static bool check_targets(struct mal_claim *list, size_t n, struct mal_error *err) {
    const struct mal_claim *later = NULL, *earlier = NULL;
    qsort(list, n, sizeof *list, by_text);
    for (size_t i = 1, first = 0; find_other(list, n, &first, &i); i++) {
        if (later && later->index < list[i].index) continue;
        later = &list[i];
        earlier = &list[first];
    }
    if (!later) return true;
    char pointer[MAL_POINTER_BYTES];
    snprintf(pointer, sizeof pointer, "/facts/%u/target", later->index);
    return mal_fail_at(err, MAL_INVALID, pointer,
                       "%s contradicts /facts/%u: the same prompt with another target",
                       pointer, earlier->index);
}

static bool check_ids(struct mal_claim *list, size_t n, struct mal_error *err) {
    const struct mal_claim *later = NULL, *earlier = NULL;
    qsort(list, n, sizeof *list, by_id);
    for (size_t i = 1; i < n && list[i].has_id; i++) {
        if (memcmp(list[i - 1].id, list[i].id, sizeof list->id) != 0) continue;
        if (later && later->index < list[i].index) continue;
        earlier = &list[i - 1];
        later = &list[i];
    }
    if (!later) return true;
    char pointer[MAL_POINTER_BYTES];
    snprintf(pointer, sizeof pointer, "/facts/%u/id", later->index);
    return mal_fail_at(err, MAL_INVALID, pointer, "%s: /facts/%u has the same id",
                       pointer, earlier->index);
}

bool mal_claims_check(struct mal_claims *claims, struct mal_error *err) {
    if (claims->n < 2) return true;
    return check_targets(claims->list, claims->n_claims, err) &&
           check_ids(claims->list, claims->n_claims, err);
}

void mal_claims_finish(struct mal_claims *claims) {
    mal_free(claims->list);
    *claims = (struct mal_claims){0};
}

static bool add_all(struct mal_claims *claims, const struct mal_fact *facts, size_t n,
                    struct mal_error *err) {
    for (size_t i = 0; i < n; i++) {
        if (!facts[i].prompt) {
            claims->n++;
        } else if (!mal_claims_add(claims, &facts[i], err)) {
            return false;
        }
    }
    return true;
}

bool mal_facts_agree(const struct mal_fact *facts, size_t n, size_t first,
                     struct mal_error *err) {
    struct mal_claims claims = {.n = first};
    bool ok = add_all(&claims, facts, n, err) && mal_claims_check(&claims, err);
    mal_claims_finish(&claims);
    return ok;
}

/* Those that have a text of an earlier one, and another target: *out_other (n), owned. */
static bool find_others(const struct mal_fact *facts, size_t n, bool **out_other,
                        struct mal_error *err) {
    struct mal_claims claims = {0};
    bool *other = mal_calloc(n + 1, sizeof *other);
    bool ok = other || mal_fail(err, MAL_NO_MEMORY, "comparing %zu facts", n);
    ok = ok && add_all(&claims, facts, n, err);
    if (ok) qsort(claims.list, claims.n_claims, sizeof *claims.list, by_text);
    for (size_t i = 1, first = 0;
         ok && find_other(claims.list, claims.n_claims, &first, &i); i++)
        other[claims.list[i].index] = true;
    mal_claims_finish(&claims);
    *out_other = other;
    return ok;
}

bool mal_facts_contradicting(const struct mal_fact *facts, size_t n, size_t *out,
                             struct mal_error *err) {
    bool *other;
    bool ok = find_others(facts, n, &other, err);
    *out = 0;
    for (size_t i = 0; ok && i < n; i++)
        *out += other[i];
    mal_free(other);
    return ok;
}

bool mal_facts_keep_first(struct mal_fact *facts, size_t n, size_t *out,
                          struct mal_error *err) {
    bool *other;
    bool ok = find_others(facts, n, &other, err);
    *out = 0;
    for (size_t i = 0; ok && i < n; i++) {
        if (other[i]) mal_fact_finish(&facts[i]);
        *out += other[i];
    }
    mal_free(other);
    return ok;
}
