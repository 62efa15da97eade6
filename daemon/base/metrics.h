/* metrics.h - what the daemon counts from its start on, for GET /metrics.
 *
 * Counters and histograms that any thread adds to and the loop reads, without a lock.
 * What the status or the database holds already is not counted here a second time. */
#ifndef MAL_METRICS_H
#define MAL_METRICS_H

#include <stdatomic.h>

#include "core/editor/progress.h"
#include "sql/store.h"

/* ---- Histograms of durations ---- */

enum { MAL_MAX_BOUNDS = 16 };

/* Ascending upper limits in seconds. */
struct mal_bounds {
    size_t n;
    double at[MAL_MAX_BOUNDS];
};

extern const struct mal_bounds mal_bounds_answer; /* 0.5 ms to 30 s */
extern const struct mal_bounds mal_bounds_batch;  /* 50 ms to half an hour */
extern const struct mal_bounds mal_bounds_write;  /* 0.1 ms to 10 s */

struct mal_histogram {
    const struct mal_bounds *bounds;
    _Atomic uint64_t in[MAL_MAX_BOUNDS + 1]; /* the last: above all bounds */
    _Atomic uint64_t sum_ns;
};

void mal_histogram_init(struct mal_histogram *h, const struct mal_bounds *bounds);
void mal_histogram_add(struct mal_histogram *h, double seconds);

/* ---- What is counted ---- */

/* Completions and scores. */
enum mal_read_call { MAL_READ_COMPLETIONS, MAL_READ_SCORES, MAL_N_READ_CALLS };

enum mal_read_outcome {
    MAL_READ_ANSWERED,
    MAL_READ_REFUSED, /* too many waited, or it asked for what is not there */
    MAL_READ_TIMED_OUT,
    MAL_READ_FAILED,
    MAL_N_READ_OUTCOMES
};

/* What the worker's thread spends its time on; the rest of it is idle. */
enum mal_work {
    MAL_WORK_NONE = -1,
    MAL_WORK_CHANGES, /* jobs, repairs, consolidations */
    MAL_WORK_EVALUATIONS,
    MAL_WORK_READS,
    MAL_WORK_SCRUB,
    MAL_N_WORKS
};

enum mal_write_outcome {
    MAL_WRITE_COMMITTED,
    MAL_WRITE_REFUSED, /* the request could not be taken; nothing is wrong */
    MAL_WRITE_FAILED,
    MAL_N_WRITE_OUTCOMES
};

enum { MAL_N_GATE_LABELS = 9 };

extern const char *const mal_gate_labels[MAL_N_GATE_LABELS];

typedef _Atomic uint64_t mal_counter;

struct mal_metrics {
    mal_counter jobs[MAL_N_JOB_KINDS][MAL_N_JOB_STATES]; /* ended */
    struct mal_histogram batches[MAL_N_JOB_KINDS];       /* jobs that ran together */
    mal_counter facts_edited, facts_rejected;
    mal_counter facts_wrong; /* still, when the version that taught them was published */
    mal_counter repair_rounds;
    mal_counter gate[MAL_N_GATE_LABELS];
    mal_counter stage_ns[MAL_N_STAGES];
    mal_counter work_ns[MAL_N_WORKS];
    mal_counter scrubbed, scrubbed_wrong;

    struct mal_histogram reads[MAL_N_READ_CALLS];
    mal_counter read_outcomes[MAL_N_READ_CALLS][MAL_N_READ_OUTCOMES];
    mal_counter tokens_prompted, tokens_generated, tokens_scored;

    struct mal_histogram writes;
    mal_counter write_outcomes[MAL_N_WRITE_OUTCOMES];
    mal_counter versions_pruned, bytes_pruned;
    mal_counter downloads_made;
    struct mal_histogram loop_delay;
};

bool mal_metrics_create(struct mal_metrics **out, struct mal_error *err) MAL_CHECK;
void mal_metrics_destroy(struct mal_metrics *metrics); /* takes NULL */

static inline void mal_count(mal_counter *counter, uint64_t n) {
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

static inline uint64_t mal_counted(const mal_counter *counter) {
    return atomic_load_explicit((mal_counter *)counter, memory_order_relaxed);
}

void mal_count_seconds(mal_counter *ns, double seconds);

/* Counts the tests that a rejected job's result names: {"gate":{"failed":[{"test"}]}}. A
 * result without a gate is a consolidation's. */
void mal_count_rejection(struct mal_metrics *metrics, const char *result_json);
void mal_count_stages(struct mal_metrics *metrics, const double seconds[MAL_N_STAGES]);

#endif
