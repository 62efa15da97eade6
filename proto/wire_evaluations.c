/* wire_evaluations.c - POST /v1/evaluations: facts to be measured, and how a job keeps
 * them. */
#include <string.h>

#include "core/alloc.h"
#include "proto/wire_impl.h"

void mal_evaluation_request_finish(struct mal_evaluation_request *request) {
    mal_facts_free(request->facts, request->n_facts);
    mal_free(request->suite);
    *request = (struct mal_evaluation_request){0};
}

/* Facts, or a suite of the daemon's; not both. */
static bool read_what(const json_t *root, size_t max_facts,
                      struct mal_evaluation_request *request, struct mal_error *err) {
    if (!mal_wire_text(root, "", "suite", &request->suite, err)) return false;
    if (!request->suite) {
        return mal_wire_facts(root, "an array of facts, or /suite", max_facts,
                              &request->facts, &request->n_facts, err) &&
               mal_facts_agree(request->facts, request->n_facts, 0, err);
    }
    const json_t *facts = json_object_get(root, "facts");
    return !facts || json_is_null(facts) ||
           mal_fail_at(err, MAL_INVALID, "/suite",
                       "/suite and /facts are both there; expected one of them");
}

bool mal_decode_evaluation(const char *body, size_t bytes, size_t max_facts,
                           struct mal_evaluation_request *out, struct mal_error *err) {
    static const char *const known[] = {"version", "facts", "suite", NULL};
    struct mal_evaluation_request request = {.version = -1};
    json_t *root = mal_wire_parse(body, bytes, 0, err);
    if (!root) return false;
    bool ok = mal_wire_only(root, "", known, err) &&
              mal_wire_int(root, "", "version", 0, INT64_MAX, &request.version, err) &&
              read_what(root, max_facts, &request, err);
    json_decref(root);
    if (ok) {
        *out = request;
    } else {
        mal_evaluation_request_finish(&request);
    }
    return ok;
}

/* ---- Kept ---- */

struct text {
    char *bytes; /* owned */
    size_t n, room;
};

static bool append(struct text *text, const char *more) {
    size_t n = strlen(more);
    if (text->n + n >= text->room) {
        size_t room = 2 * (text->n + n) + 64;
        char *bytes = mal_realloc(text->bytes, room);
        if (!bytes) return false;
        text->bytes = bytes;
        text->room = room;
    }
    memcpy(text->bytes + text->n, more, n + 1);
    text->n += n;
    return true;
}

char *mal_encode_facts(const struct mal_fact *facts, size_t n) {
    struct text text = {0};
    bool ok = append(&text, "[");
    for (size_t i = 0; ok && i < n; i++) {
        char *fact = mal_encode_fact(&facts[i]);
        ok = fact && (i == 0 || append(&text, ",\n")) && append(&text, fact);
        mal_free(fact);
    }
    if (ok && append(&text, "]")) return text.bytes;
    mal_free(text.bytes);
    return NULL;
}

bool mal_decode_next_fact(const char **at, struct mal_fact *out, bool *out_end,
                          struct mal_error *err) {
    const char *line = *at + strspn(*at, "[]\n");
    size_t n = strcspn(line, "\n");
    *at = line + n;
    *out_end = n == 0;
    if (n == 0) return true;
    while (n > 0 && strchr(",]", line[n - 1]))
        n--;
    char *json = mal_malloc(n + 1);
    if (!json) return mal_fail(err, MAL_NO_MEMORY, "facts");
    memcpy(json, line, n);
    json[n] = '\0';
    bool ok = mal_decode_fact(json, out, err);
    mal_free(json);
    return ok;
}
