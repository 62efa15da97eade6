/* report.c - errors and progress on the terminal, in a log, and as JSON. */
#include "daemon/base/report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/error.h"
#include "core/text.h"
#include "proto/wire.h"

static const double REDRAW_SECONDS = 0.1; /* on a terminal */
static const double RATE_SECONDS = 0.2;   /* before that, a rate says nothing */
static const double LINE_SECONDS = 5;     /* elsewhere, or after a tenth of the way */

int mal_report_error(const struct mal_error *err, bool json) {
    char line[sizeof err->text];
    memcpy(line, err->text, sizeof line);
    fprintf(stderr, "malmend: %s\n", mal_text_line(line));
    if (!json) return 1;
    char *problem = mal_encode_problem(err, mal_status_http(err->status));
    if (problem) printf("%s\n", problem);
    mal_free(problem);
    return 1;
}

/* ---- Progress ---- */

static double now_seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

static void format_clock(double seconds, char out[16]) {
    int64_t s = (int64_t)(seconds + 0.5);
    if (s > 359999) s = 359999; /* 99:59:59 */
    if (s < 3600) {
        snprintf(out, 16, "%d:%02d", (int)(s / 60), (int)(s % 60));
    } else {
        snprintf(out, 16, "%d:%02d:%02d", (int)(s / 3600), (int)(s / 60 % 60),
                 (int)(s % 60));
    }
}

/* "128 of 256, 12.3/s, 0:10 left", or "128, 0:12" where the total is not known */
static void format_state(const struct mal_bar *bar, double now, char *out, size_t size) {
    char clock[16];
    double seconds = now - bar->started;
    double rate = (double)bar->done / seconds;
    bool rated = bar->total > 0 && bar->done > 0 && seconds >= RATE_SECONDS;
    size_t n = (size_t)snprintf(out, size, "%" PRId64, bar->done);
    if (bar->total > 0) {
        n += (size_t)snprintf(out + n, size - n, " of %" PRId64, bar->total);
    }
    if (rated) {
        n += (size_t)snprintf(out + n, size - n, rate < 10 ? ", %.2f/s" : ", %.0f/s",
                              rate);
    }
    if (rated && bar->done < bar->total) {
        format_clock((double)(bar->total - bar->done) / rate, clock);
        snprintf(out + n, size - n, ", %s left", clock);
    } else {
        format_clock(seconds, clock);
        snprintf(out + n, size - n, ", %s", clock);
    }
}

static int percent(const struct mal_bar *bar) {
    return bar->total > 0 ? (int)(100.0 * (double)bar->done / (double)bar->total) : 0;
}

static void draw_bar(const struct mal_bar *bar, const char *state) {
    struct winsize window;
    int width = 80;
    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &window) == 0 && window.ws_col > 0) {
        width = window.ws_col;
    }
    int room = width - (int)(strlen(bar->label) + strlen(state)) - 12;
    if (room > 40) room = 40;
    fprintf(stderr, "\r\033[K%s ", bar->label);
    if (bar->total > 0 && room >= 8) {
        int full = room * percent(bar) / 100;
        fputc('[', stderr);
        for (int i = 0; i < room; i++)
            fputc(i < full ? '#' : '.', stderr);
        fprintf(stderr, "] %3d %% ", percent(bar));
    }
    fputs(state, stderr);
    fflush(stderr);
}

static void show(struct mal_bar *bar, double now) {
    char state[128];
    format_state(bar, now, state, sizeof state);
    if (bar->terminal) {
        draw_bar(bar, state);
    } else if (bar->total > 0) {
        fprintf(stderr, "%s: %d %%, %s\n", bar->label, percent(bar), state);
    } else {
        fprintf(stderr, "%s: %s\n", bar->label, state);
    }
    bar->shown = true;
    bar->drawn = now;
    bar->drawn_done = bar->done;
}

void mal_bar_start(struct mal_bar *bar, const char *label, int64_t total, bool json) {
    *bar = (struct mal_bar){.label = label, .total = total, .silent = json};
    bar->terminal = isatty(STDERR_FILENO) == 1;
    bar->started = bar->drawn = now_seconds();
}

void mal_bar_update(struct mal_bar *bar, int64_t done) {
    bar->done = bar->total > 0 && done > bar->total ? bar->total : done;
    if (bar->silent) return;
    double now = now_seconds(), waited = now - bar->drawn;
    bool due = waited >= LINE_SECONDS;
    if (bar->terminal) {
        due = !bar->shown || waited >= REDRAW_SECONDS;
    } else if (bar->total > 0 && bar->done < bar->total) {
        due = due || (double)(bar->done - bar->drawn_done) >= 0.1 * (double)bar->total;
    }
    if (due && bar->done != bar->drawn_done) show(bar, now);
}

void mal_bar_finish(struct mal_bar *bar) {
    if (bar->silent || bar->done == 0) return;
    if (bar->terminal || !bar->shown || bar->drawn_done != bar->done)
        show(bar, now_seconds());
    if (bar->terminal) fputc('\n', stderr);
    bar->silent = true;
}
