/* metrics.c - counters and histograms. */
#include "daemon/base/metrics.h"

#include <string.h>

#include <jansson.h>

#include "core/alloc.h"
#include "core/json.h"

/* ---- Histograms ---- */

const struct mal_bounds mal_bounds_answer = {
    15,
    {0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30}};
const struct mal_bounds mal_bounds_batch = {
    13, {0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 180, 600, 1800}};
const struct mal_bounds mal_bounds_write = {14,
                                            {0.0001, 0.00025, 0.0005, 0.001, 0.0025,
                                             0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1, 5,
                                             10}};

void mal_histogram_init(struct mal_histogram *h, const struct mal_bounds *bounds) {
    *h = (struct mal_histogram){.bounds = bounds};
}

void mal_histogram_add(struct mal_histogram *h, double seconds) {
    size_t i = 0;
    while (i < h->bounds->n && seconds > h->bounds->at[i])
        i++;
    mal_count(&h->in[i], 1);
    mal_count_seconds(&h->sum_ns, seconds);
}

/* ---- Counters ---- */

/* The gate's tests as results name them, and a consolidation that measured worse. */
const char *const mal_gate_labels[MAL_N_GATE_LABELS] = {
    "min_es",        "min_gs",          "min_ls",
    "min_agreement", "max_norm_growth", "max_perplexity_growth",
    "finite",        "consolidation",   "other"};

enum { CONSOLIDATION = MAL_N_GATE_LABELS - 2, OTHER };

bool mal_metrics_create(struct mal_metrics **out, struct mal_error *err) {
    struct mal_metrics *m = mal_calloc(1, sizeof *m);
    if (!m) return mal_fail(err, MAL_NO_MEMORY, "metrics");
    for (int i = 0; i < MAL_N_JOB_KINDS; i++)
        mal_histogram_init(&m->batches[i], &mal_bounds_batch);
    for (int i = 0; i < MAL_N_READ_CALLS; i++)
        mal_histogram_init(&m->reads[i], &mal_bounds_answer);
    mal_histogram_init(&m->writes, &mal_bounds_write);
    mal_histogram_init(&m->loop_delay, &mal_bounds_write);
    *out = m;
    return true;
}

void mal_metrics_destroy(struct mal_metrics *metrics) {
    mal_free(metrics);
}

void mal_count_seconds(mal_counter *ns, double seconds) {
    if (seconds > 0) mal_count(ns, (uint64_t)(seconds * 1e9));
}

static int label_of(const char *test) {
    int i = 0;
    while (i < OTHER && (!test || strcmp(mal_gate_labels[i], test)))
        i++;
    return i;
}

void mal_count_rejection(struct mal_metrics *metrics, const char *result_json) {
    json_error_t problem;
    json_t *result = NULL;
    if (result_json)
        result = mal_json_parse(result_json, strlen(result_json), 0, &problem);
    const json_t *gate = json_object_get(result, "gate");
    const json_t *failed = json_object_get(gate, "failed"), *test;
    size_t i;
    if (json_object_get(result, "before"))
        gate = failed = NULL; /* it is counted as one */
    if (!gate) mal_count(&metrics->gate[result ? CONSOLIDATION : OTHER], 1);
    json_array_foreach (failed, i, test) {
        const char *name = json_string_value(json_object_get(test, "test"));
        mal_count(&metrics->gate[label_of(name)], 1);
    }
    json_decref(result);
}

void mal_count_stages(struct mal_metrics *metrics, const double seconds[MAL_N_STAGES]) {
    for (int s = 0; s < MAL_N_STAGES; s++)
        mal_count_seconds(&metrics->stage_ns[s], seconds[s]);
}
