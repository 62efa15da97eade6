/* wire_edits.c - POST /v1/edits: facts with what goes with them, as JSON. */
#include <string.h>

#include "core/alloc.h"
#include "proto/wire_impl.h"

void mal_edits_request_finish(struct mal_edits_request *request) {
    mal_wire_texts_free(request->facts_json, request->n_facts);
    mal_facts_free(request->facts, request->n_facts);
    mal_free(request->note);
    mal_free(request->gate_json);
    *request = (struct mal_edits_request){0};
}

bool mal_wire_too_many_facts(size_t n, size_t max_facts, struct mal_error *err) {
    return mal_fail_at(err, MAL_TOO_LARGE, "/facts",
                       "/facts has %s%zu facts; at most %zu fit in one request",
                       n > max_facts + 1 ? "" : "over ",
                       n > max_facts + 1 ? n : max_facts, max_facts);
}

/* Checks that look at all facts, then each fact's stored text. */
static bool complete(struct mal_edits_request *request, struct mal_error *err) {
    if (!mal_facts_agree(request->facts, request->n_facts, 0, err)) return false;
    request->facts_json = mal_calloc(request->n_facts, sizeof *request->facts_json);
    if (!request->facts_json) return mal_fail(err, MAL_NO_MEMORY, "facts of the request");
    for (size_t i = 0; i < request->n_facts; i++) {
        request->facts_json[i] = mal_encode_fact(&request->facts[i]);
        if (!request->facts_json[i]) {
            return mal_fail(err, MAL_NO_MEMORY, "facts of the request");
        }
    }
    return true;
}

/* ---- JSON ---- */

static bool read_gate_measure(const json_t *gate, struct mal_error *err) {
    char *measure = NULL;
    if (!mal_wire_text(gate, "/gate", "measure", &measure, err)) return false;
    bool known = !measure || strcmp(measure, "decoded") == 0 ||
                 strcmp(measure, "teacher_forced") == 0;
    mal_free(measure);
    return known ||
           mal_fail_at(err, MAL_INVALID, "/gate/measure",
                       "/gate/measure: expected \"decoded\" or \"teacher_forced\"");
}

static bool read_gate(const json_t *root, char **out, struct mal_error *err) {
    static const char *const shares[] = {"min_es", "min_gs", "min_ls", "min_agreement"};
    static const char *const growths[] = {"max_norm_growth", "max_perplexity_growth"};
    static const char *const known[] = {
        "min_es",        "min_gs",          "min_ls",
        "min_agreement", "max_norm_growth", "max_perplexity_growth",
        "measure",       "bisect",          NULL};
    json_t *gate = json_object_get(root, "gate");
    double number;
    bool bisect;
    if (!gate || json_is_null(gate)) return true;
    if (!json_is_object(gate))
        return mal_wire_wrong_type(gate, "/gate", "an object", err);
    if (!mal_wire_only(gate, "/gate", known, err)) return false;
    for (size_t i = 0; i < sizeof shares / sizeof *shares; i++) {
        if (!mal_wire_real(gate, "/gate", shares[i], 0, 1, &number, err)) return false;
    }
    for (size_t i = 0; i < sizeof growths / sizeof *growths; i++) {
        if (!mal_wire_real(gate, "/gate", growths[i], 0, 1e30, &number, err))
            return false;
    }
    if (!mal_wire_bool(gate, "/gate", "bisect", &bisect, err)) return false;
    if (!read_gate_measure(gate, err)) return false;

    /* A member that is null is absent, also in what is stored. */
    for (size_t i = 0; known[i]; i++) {
        if (json_is_null(json_object_get(gate, known[i])))
            json_object_del(gate, known[i]);
    }
    if (json_object_size(gate) == 0) return true;
    *out = mal_wire_dump(gate);
    return *out || mal_fail(err, MAL_NO_MEMORY, "gate of the request");
}

bool mal_decode_edits(const char *body, size_t bytes, size_t max_facts,
                      struct mal_edits_request *out, struct mal_error *err) {
    static const char *const known[] = {"facts", "note", "validate_only", "gate", NULL};
    struct mal_edits_request request = {0};
    json_t *root = mal_wire_parse(body, bytes, 0, err);
    if (!root) return false;
    bool ok = mal_wire_only(root, "", known, err) &&
              mal_wire_note(root, "note", &request.note, err) &&
              mal_wire_bool(root, "", "validate_only", &request.validate_only, err) &&
              read_gate(root, &request.gate_json, err) &&
              mal_wire_facts(root, "an array of facts", max_facts, &request.facts,
                             &request.n_facts, err) &&
              complete(&request, err);
    json_decref(root);
    if (ok) {
        *out = request;
    } else {
        mal_edits_request_finish(&request);
    }
    return ok;
}
