/* report.h - how commands speak: errors, and the progress of long work. */
#ifndef MAL_REPORT_H
#define MAL_REPORT_H

#include <stdbool.h>
#include <stdint.h>

struct mal_error;

/* One line on stderr; with `json` also a Problem object, a line, on stdout. Returns 1,
 * the exit code of a command that failed. */
int mal_report_error(const struct mal_error *err, bool json);

/* Progress on stderr: a bar on a terminal, at most 10 times a second; elsewhere a line at
 * about every tenth of the way or every 5 seconds. Caller's memory; one thread. */
struct mal_bar {
    const char *label; /* borrowed */
    int64_t total;     /* 0: not known */
    int64_t done;
    bool silent, terminal, shown;
    double started, drawn; /* seconds of the monotonic clock */
    int64_t drawn_done;
};

void mal_bar_start(struct mal_bar *bar, const char *label, int64_t total, bool json);
void mal_bar_update(struct mal_bar *bar, int64_t done);
/* Shows where the work ended, and for how long it ran. A bar never updated says nothing.
 */
void mal_bar_finish(struct mal_bar *bar);

#endif
