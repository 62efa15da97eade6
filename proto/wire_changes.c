/* wire_changes.c - POST /v1/rollbacks, /v1/retractions and /v1/consolidations: changes of
 * what is live, without new facts. */
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "proto/wire_impl.h"

/* ---- Rollbacks ---- */

void mal_rollback_request_finish(struct mal_rollback_request *request) {
    mal_free(request->reason);
    *request = (struct mal_rollback_request){0};
}

bool mal_decode_rollback(const char *body, size_t bytes, struct mal_rollback_request *out,
                         struct mal_error *err) {
    static const char *const known[] = {"to_version", "reason", NULL};
    struct mal_rollback_request request = {0};
    const json_t *value;
    json_t *root = mal_wire_parse(body, bytes, 0, err);
    if (!root) return false;
    bool ok =
        mal_wire_only(root, "", known, err) &&
        mal_wire_need(root, "", "to_version", "a version's number", &value, err) &&
        mal_wire_int(root, "", "to_version", 0, INT64_MAX, &request.to_version, err) &&
        mal_wire_note(root, "reason", &request.reason, err);
    json_decref(root);
    if (ok) *out = request;
    return ok;
}

/* ---- Retractions ---- */

void mal_retraction_request_finish(struct mal_retraction_request *request) {
    mal_wire_texts_free(request->facts, request->n_facts);
    mal_free(request->job);
    mal_free(request->reason);
    *request = (struct mal_retraction_request){0};
}

bool mal_parse_mode(const char *mode, bool *out_drop) {
    *out_drop = strcmp(mode, "drop") == 0;
    return *out_drop || strcmp(mode, "pin") == 0;
}

static bool read_mode(const json_t *root, bool *out_drop, struct mal_error *err) {
    char *mode = NULL;
    if (!mal_wire_text(root, "", "mode", &mode, err)) return false;
    bool known = !mode || mal_parse_mode(mode, out_drop);
    mal_free(mode);
    return known ||
           mal_fail_at(err, MAL_INVALID, "/mode", "/mode: expected \"pin\" or \"drop\"");
}

struct named {
    const char *id;
    size_t index;
};

static int by_id(const void *a, const void *b) {
    const struct named *x = a, *y = b;
    int order = strcmp(x->id, y->id);
    if (order) return order;
    return x->index < y->index ? -1 : 1;
}

/* Blames the first fact that was named before. */
static bool check_apart(char *const *ids, size_t n, struct mal_error *err) {
    struct named *names = mal_calloc(n, sizeof *names);
    if (!names) return mal_fail(err, MAL_NO_MEMORY, "comparing %zu facts", n);
    for (size_t i = 0; i < n; i++)
        names[i] = (struct named){ids[i], i};
    qsort(names, n, sizeof *names, by_id);
    size_t earlier = 0, later = n;
    for (size_t i = 1; i < n; i++) {
        if (strcmp(names[i - 1].id, names[i].id) != 0 || names[i].index > later) continue;
        earlier = names[i - 1].index;
        later = names[i].index;
    }
    mal_free(names);
    if (later == n) return true;
    char pointer[MAL_POINTER_BYTES];
    mal_wire_pointer_at(pointer, "/facts", later);
    return mal_fail_at(err, MAL_INVALID, pointer, "%s: /facts/%zu is the same fact",
                       pointer, earlier);
}

static bool read_ids(const json_t *root, size_t max_facts,
                     struct mal_retraction_request *request, struct mal_error *err) {
    static const struct mal_wire_list list = {
        .key = "facts", .min = 1, .texts = MAL_WIRE_ANY};
    size_t n = json_array_size(json_object_get(root, "facts"));
    if (n > max_facts) return mal_wire_too_many_facts(n, max_facts, err);
    if (!mal_wire_texts(root, "", &list, &request->facts, &request->n_facts, err)) {
        return false;
    }
    char pointer[MAL_POINTER_BYTES];
    for (size_t i = 0; i < request->n_facts; i++) {
        mal_wire_pointer_at(pointer, "/facts", i);
        if (!mal_wire_check_id(request->facts[i], pointer, err)) return false;
    }
    return check_apart(request->facts, request->n_facts, err);
}

/* Facts by their ids, or those of a job; not both. */
static bool read_target(const json_t *root, size_t max_facts,
                        struct mal_retraction_request *request, struct mal_error *err) {
    if (!mal_wire_text(root, "", "job", &request->job, err)) return false;
    if (!request->job) {
        const json_t *value;
        return mal_wire_need(root, "", "facts", "an array of facts' ids, or /job", &value,
                             err) &&
               read_ids(root, max_facts, request, err);
    }
    const json_t *facts = json_object_get(root, "facts");
    if (facts && !json_is_null(facts)) {
        return mal_fail_at(err, MAL_INVALID, "/job",
                           "/job and /facts are both there; expected one of them");
    }
    return mal_wire_check_id(request->job, "/job", err);
}

bool mal_decode_retraction(const char *body, size_t bytes, size_t max_facts,
                           struct mal_retraction_request *out, struct mal_error *err) {
    static const char *const known[] = {"facts", "job", "mode", "reason", NULL};
    struct mal_retraction_request request = {0};
    json_t *root = mal_wire_parse(body, bytes, 0, err);
    if (!root) return false;
    bool ok = mal_wire_only(root, "", known, err) &&
              mal_wire_note(root, "reason", &request.reason, err) &&
              read_mode(root, &request.drop, err) &&
              read_target(root, max_facts, &request, err);
    json_decref(root);
    if (ok) {
        *out = request;
    } else {
        mal_retraction_request_finish(&request);
    }
    return ok;
}

char *mal_encode_retraction(const char *const *facts, size_t n, bool drop) {
    json_t *ids = json_array();
    bool ok = ids != NULL;
    for (size_t i = 0; i < n && ok; i++)
        ok = !json_array_append_new(ids, json_string(facts[i]));
    json_t *root = json_pack("{s:o,s:s}", "facts", ids, "mode", drop ? "drop" : "pin");
    char *text = ok ? mal_wire_dump(root) : NULL;
    json_decref(root);
    return text;
}

/* The mode stands last, so that the facts need not be read. */
bool mal_retraction_drops(const char *encoded) {
    static const char end[] = "\"mode\":\"drop\"}";
    size_t n = strlen(encoded), bytes = sizeof end - 1;
    return n >= bytes && !strcmp(encoded + n - bytes, end);
}

/* ---- Consolidations ---- */

bool mal_decode_consolidation(const char *body, size_t bytes, char **out_reason,
                              struct mal_error *err) {
    static const char *const known[] = {"reason", NULL};
    json_t *root = mal_wire_parse(body, bytes, 0, err);
    if (!root) return false;
    bool ok = mal_wire_only(root, "", known, err) &&
              mal_wire_note(root, "reason", out_reason, err);
    json_decref(root);
    return ok;
}
