/* fuzz_options.c - a hostile config file: with the command line "serve --config FILE" it
 * gives values that are in their ranges, or a refusal. */
#define _GNU_SOURCE
#include <assert.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "daemon/command/options.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

struct values {
    char *text, *choice;
    int64_t whole, size;
    double real, seconds;
    bool flag;
};

static const struct mal_option options[] = {
    {"text", MAL_OPTION_TEXT, offsetof(struct values, text), "T", NULL, "A text."},
    {"a-choice", MAL_OPTION_CHOICE, offsetof(struct values, choice), "joint|none", NULL,
     "One of two."},
    {"whole", MAL_OPTION_INT, offsetof(struct values, whole), "N", "5", "A number.",
     .min = -3, .max = 1e9},
    {"size", MAL_OPTION_BYTES, offsetof(struct values, size), "BYTES", "1MiB", "Bytes.",
     .min = 0, .max = 1e10},
    {"real", MAL_OPTION_REAL, offsetof(struct values, real), "X", "0.5", "A share.",
     .min = 0, .max = 1},
    {"seconds", MAL_OPTION_DURATION, offsetof(struct values, seconds), "S", "1m", "Time.",
     .min = 0, .max = 1e6},
    {"flag", MAL_OPTION_FLAG, offsetof(struct values, flag), NULL, NULL, "Yes or no."},
    {NULL},
};

static const struct mal_option_set set = {
    .command = "serve", .about = "", .options = options, .configurable = true};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static int fd = -1;
    static char path[32];
    if (fd < 0) {
        fd = memfd_create("fuzz", 0);
        if (fd < 0) abort();
        snprintf(path, sizeof path, "/dev/fd/%d", fd);
    }
    if (ftruncate(fd, 0) != 0 || pwrite(fd, data, bytes, 0) != (ssize_t)bytes) abort();
    char command[] = "serve", config[] = "--config";
    char *argv[] = {command, config, path, NULL};
    struct values v = {0};
    int code = -1;
    if (mal_options_parse(&set, 3, argv, &v, &code)) {
        assert(v.whole >= -3 && v.whole <= 1000000000);
        assert(v.size >= 0 && v.size <= 10000000000);
        assert(v.real >= 0 && v.real <= 1);
        assert(v.seconds >= 0 && v.seconds <= 1e6);
        assert(!v.choice || !strcmp(v.choice, "joint") || !strcmp(v.choice, "none"));
    } else {
        assert(code == 2);
    }
    mal_options_finish(&set, &v);
    return 0;
}
