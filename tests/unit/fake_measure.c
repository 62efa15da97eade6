/* fake_measure.c - how the fake engine measures: a target "wrong:..." is wrong, and one
 * "wavers:..." where facts were kept out of its batch; others are right. */
#include "fake_measure.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "daemon/engine/measures.h"

/* Takes over `json`. */
static char *text_of(json_t *json) {
    char *text = json_dumps(json, JSON_COMPACT);
    char *copy = mal_strdup(text);
    free(text);
    json_decref(json);
    return copy;
}

static bool is_wrong(const struct mal_batch_edit *batch, size_t i) {
    const char *target = batch->facts[i].target;
    return !strncmp(target, "wrong:", 6) ||
           (batch->n_rejected > 0 && !strncmp(target, "wavers:", 7));
}

void mal_fake_measure(struct mal_change *change, const struct mal_batch_edit *batch) {
    const double none = (double)NAN;
    struct mal_gate_numbers numbers;
    for (size_t i = 0; i < batch->n; i++)
        change->n_wrong += is_wrong(batch, i);
    double right = 1 - (double)change->n_wrong / (double)batch->n;
    change->measures = (struct mal_measures){.n_facts = batch->n,
                                             .tf_es = right,
                                             .tf_gs = none,
                                             .tf_ls = none,
                                             .dec_es = right,
                                             .dec_gs = none,
                                             .dec_ls = none,
                                             .agreement = 1};
    mal_gate_numbers_of(&numbers, &change->measures);
    change->rejected = batch->rejected;
    change->n_rejected = batch->n_rejected;
    change->passes = mal_gate_passes(batch->gate, &numbers);
    change->results = mal_calloc(batch->n_jobs, sizeof *change->results);
    for (size_t j = 0; j < batch->n_jobs; j++) {
        size_t from = batch->first[j], to = batch->first[j + 1];
        json_t *wrong = json_array();
        for (size_t i = from; i < to; i++) {
            if (is_wrong(batch, i))
                json_array_append_new(wrong, json_string(batch->facts[i].id));
        }
        change->results[change->n_results++] = text_of(
            json_pack("{s:I,s:o,s:o,s:o}", "facts", (json_int_t)(to - from), "wrong",
                      wrong, "measures", mal_measures_json(&change->measures), "gate",
                      mal_gate_json(batch->gate, &numbers)));
    }
}

char *mal_fake_measures_text(const struct mal_measures *measures) {
    if (!measures->n_facts) return mal_strdup("{}");
    return text_of(mal_measures_json(measures));
}
