/* names.c - the words of the API for kinds and states, which the database holds too. */
#include "sql/store_impl.h"

#include <string.h>

static const char *const job_kinds[MAL_N_JOB_KINDS] = {
    [MAL_JOB_EDIT] = "edit",
    [MAL_JOB_ROLLBACK] = "rollback",
    [MAL_JOB_RETRACTION] = "retraction",
    [MAL_JOB_CONSOLIDATION] = "consolidation",
    [MAL_JOB_REPAIR] = "repair",
    [MAL_JOB_EVALUATION] = "evaluation",
};
static const char *const job_states[MAL_N_JOB_STATES] = {
    [MAL_JOB_QUEUED] = "queued",       [MAL_JOB_RUNNING] = "running",
    [MAL_JOB_APPLIED] = "applied",     [MAL_JOB_DONE] = "done",
    [MAL_JOB_REJECTED] = "rejected",   [MAL_JOB_FAILED] = "failed",
    [MAL_JOB_CANCELLED] = "cancelled",
};
static const char *const fact_states[MAL_N_FACT_STATES] = {
    [MAL_FACT_QUEUED] = "queued",           [MAL_FACT_LIVE] = "live",
    [MAL_FACT_SUPERSEDED] = "superseded",   [MAL_FACT_RETRACTED] = "retracted",
    [MAL_FACT_ROLLED_BACK] = "rolled_back", [MAL_FACT_REJECTED] = "rejected",
    [MAL_FACT_FAILED] = "failed",
};
static const char *const version_kinds[MAL_N_VERSION_KINDS] = {
    [MAL_VERSION_BASE] = "base",
    [MAL_VERSION_EDIT] = "edit",
    [MAL_VERSION_ROLLBACK] = "rollback",
    [MAL_VERSION_RETRACTION] = "retraction",
    [MAL_VERSION_CONSOLIDATION] = "consolidation",
    [MAL_VERSION_REPAIR] = "repair",
};

static int find(const char *const *words, int n, const char *name) {
    for (int i = 0; i < n; i++) {
        if (strcmp(words[i], name) == 0) return i;
    }
    return -1;
}

const char *mal_job_kind_name(enum mal_job_kind kind) {
    return job_kinds[kind];
}

const char *mal_job_state_name(enum mal_job_state state) {
    return job_states[state];
}

const char *mal_fact_state_name(enum mal_fact_state state) {
    return fact_states[state];
}

const char *mal_version_kind_name(enum mal_version_kind kind) {
    return version_kinds[kind];
}

int mal_job_kind_from_name(const char *name) {
    return find(job_kinds, MAL_N_JOB_KINDS, name);
}

int mal_job_state_from_name(const char *name) {
    return find(job_states, MAL_N_JOB_STATES, name);
}

int mal_fact_state_from_name(const char *name) {
    return find(fact_states, MAL_N_FACT_STATES, name);
}

int mal_version_kind_from_name(const char *name) {
    return find(version_kinds, MAL_N_VERSION_KINDS, name);
}

bool mal_job_state_ended(enum mal_job_state state) {
    return state != MAL_JOB_QUEUED && state != MAL_JOB_RUNNING;
}
