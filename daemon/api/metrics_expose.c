/* metrics_expose.c - names, help and labels of the counters. */
#include "daemon/api/metrics_expose.h"

#include "daemon/api/exposition.h"
#include "daemon/base/log.h"
#include "daemon/base/metrics.h"

static void counter(struct mal_exposition *out, const char *name, const char *help,
                    const mal_counter *n) {
    mal_expose(out, MAL_COUNTER, name, help);
    mal_expose_value(out, (double)mal_counted(n), NULL);
}

static double seconds(const mal_counter *ns) {
    return (double)mal_counted(ns) / 1e9;
}

static void expose_jobs(const struct mal_metrics *m, struct mal_exposition *out) {
    mal_expose(out, MAL_COUNTER, "malmend_jobs_finished_total",
               "Jobs that ended, by kind and how.");
    for (int kind = 0; kind < MAL_N_JOB_KINDS; kind++) {
        for (int state = 0; state < MAL_N_JOB_STATES; state++) {
            if (!mal_job_state_ended((enum mal_job_state)state)) continue;
            mal_expose_value(out, (double)mal_counted(&m->jobs[kind][state]), "kind",
                             mal_job_kind_name((enum mal_job_kind)kind), "outcome",
                             mal_job_state_name((enum mal_job_state)state), NULL);
        }
    }
    mal_expose(out, MAL_HISTOGRAM, "malmend_batch_duration_seconds",
               "Jobs that ran together, from their start to their end, by kind.");
    for (int kind = 0; kind < MAL_N_JOB_KINDS; kind++) {
        mal_expose_histogram(out, &m->batches[kind], "kind",
                             mal_job_kind_name((enum mal_job_kind)kind), NULL);
    }
}

static void expose_edits(const struct mal_metrics *m, struct mal_exposition *out) {
    counter(out, "malmend_facts_edited_total", "Facts taught by published versions.",
            &m->facts_edited);
    counter(out, "malmend_facts_rejected_total", "Facts that the gate kept out.",
            &m->facts_rejected);
    counter(out, "malmend_facts_wrong_total",
            "Of the facts taught, those wrong after the last round of repair.",
            &m->facts_wrong);
    counter(out, "malmend_repair_rounds_total", "Rounds of repair.", &m->repair_rounds);
    mal_expose(out, MAL_COUNTER, "malmend_gate_rejections_total",
               "Tests of the gate that changes failed.");
    for (int i = 0; i < MAL_N_GATE_LABELS; i++) {
        mal_expose_value(out, (double)mal_counted(&m->gate[i]), "test",
                         mal_gate_labels[i], NULL);
    }
    counter(out, "malmend_scrub_checked_facts_total", "Live facts looked at while idle.",
            &m->scrubbed);
    counter(out, "malmend_scrub_found_wrong_total",
            "Live facts found wrong while idle, each time one is.", &m->scrubbed_wrong);
}

static void expose_work(const struct mal_metrics *m, struct mal_exposition *out) {
    static const char *const works[] = {"changes", "evaluations", "reads", "scrub"};
    mal_expose(out, MAL_COUNTER, "malmend_stage_seconds_total",
               "Time of changes by stage, the reads served meanwhile in it.");
    for (int i = 0; i < MAL_N_STAGES; i++) {
        mal_expose_value(out, seconds(&m->stage_ns[i]), "stage",
                         mal_stage_name((enum mal_stage)i), NULL);
    }
    mal_expose(out, MAL_COUNTER, "malmend_worker_busy_seconds_total",
               "Time of the thread that owns the device, by what it does; the rest is "
               "idle.");
    for (int i = 0; i < MAL_N_WORKS; i++)
        mal_expose_value(out, seconds(&m->work_ns[i]), "work", works[i], NULL);
}

static void expose_reads(const struct mal_metrics *m, struct mal_exposition *out) {
    static const char *const calls[] = {"completions", "scores"};
    static const char *const outcomes[] = {"answered", "refused", "timed_out", "failed"};
    mal_expose(out, MAL_COUNTER, "malmend_reads_total",
               "Completions and scores by how they ended.");
    for (int call = 0; call < MAL_N_READ_CALLS; call++) {
        for (int i = 0; i < MAL_N_READ_OUTCOMES; i++) {
            mal_expose_value(out, (double)mal_counted(&m->read_outcomes[call][i]), "call",
                             calls[call], "outcome", outcomes[i], NULL);
        }
    }
    mal_expose(out, MAL_HISTOGRAM, "malmend_read_duration_seconds",
               "Completions and scores, from asking the worker to its answer.");
    for (int call = 0; call < MAL_N_READ_CALLS; call++)
        mal_expose_histogram(out, &m->reads[call], "call", calls[call], NULL);
    counter(out, "malmend_tokens_prompted_total",
            "Tokens of prompts that were continued.", &m->tokens_prompted);
    counter(out, "malmend_tokens_generated_total", "Tokens of answers.",
            &m->tokens_generated);
    counter(out, "malmend_tokens_scored_total", "Tokens of targets that were scored.",
            &m->tokens_scored);
}

static void expose_storage(const struct mal_metrics *m, struct mal_exposition *out) {
    static const char *const outcomes[] = {"committed", "refused", "failed"};
    mal_expose(out, MAL_COUNTER, "malmend_writes_total",
               "Writes to the database by how they ended.");
    for (int i = 0; i < MAL_N_WRITE_OUTCOMES; i++) {
        mal_expose_value(out, (double)mal_counted(&m->write_outcomes[i]), "outcome",
                         outcomes[i], NULL);
    }
    mal_expose(out, MAL_HISTOGRAM, "malmend_write_duration_seconds",
               "Writes to the database, until they were durable.");
    mal_expose_histogram(out, &m->writes, NULL);
    counter(out, "malmend_versions_pruned_total", "Versions whose weights were given up.",
            &m->versions_pruned);
    counter(out, "malmend_pruned_bytes_total", "Bytes that pruning gave up.",
            &m->bytes_pruned);
    counter(out, "malmend_downloads_made_total", "Files made for downloads.",
            &m->downloads_made);
}

static void expose_loop(const struct mal_metrics *m, struct mal_exposition *out) {
    static const char *const levels[] = {"info", "warning", "error"};
    mal_expose(out, MAL_HISTOGRAM, "malmend_loop_delay_seconds",
               "How late the thread that talks to clients came to a timer, ten times a "
               "second.");
    mal_expose_histogram(out, &m->loop_delay, NULL);
    mal_expose(out, MAL_COUNTER, "malmend_log_lines_total", "Lines logged by level.");
    for (int i = 0; i < 3; i++)
        mal_expose_value(out, (double)mal_log_lines(levels[i]), "level", levels[i], NULL);
    mal_expose(out, MAL_COUNTER, "malmend_log_lines_dropped_total",
               "Lines logged and not written: nobody read them in time.");
    mal_expose_value(out, (double)mal_log_dropped(), NULL);
}

void mal_metrics_expose(const struct mal_metrics *metrics, struct mal_exposition *out) {
    expose_jobs(metrics, out);
    expose_edits(metrics, out);
    expose_work(metrics, out);
    expose_reads(metrics, out);
    expose_storage(metrics, out);
    expose_loop(metrics, out);
}
