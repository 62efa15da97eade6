/* progress.c - stages by name, ticks and observers. */
#include "core/editor/progress.h"

const char *mal_stage_name(enum mal_stage stage) {
    static const char *const names[] = {"tokenize", "forward", "backward", "hypernet",
                                        "gram",     "solve",   "apply",    "hash",
                                        "verify",   "persist", "search"};
    return names[stage];
}

bool mal_progress_step(const struct mal_progress *progress, enum mal_stage stage,
                       int64_t done, int64_t total, struct mal_error *err) {
    if (!progress || !progress->tick) return true;
    return progress->tick(progress->arg, stage, done, total) ||
           mal_fail(err, MAL_CANCELLED, "cancelled");
}

void mal_progress_observe(const struct mal_progress *progress, enum mal_observed what,
                          size_t module, int64_t rows, const float *data) {
    if (progress && progress->observe)
        progress->observe(progress->arg, what, module, rows, data);
}
