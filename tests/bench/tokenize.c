/* tokenize.c - how fast a tokenizer encodes the lines of a text, alone: no file is read
 * and nothing printed while the clock runs.
 *
 *     bench_tokenize TOKENIZER TEXT RUNS
 *
 * TOKENIZER is a model directory or a file as mal_tokenizer_open_file() takes it. Prints
 * a JSON line: bytes and lines of the text, tokens, a checksum of the ids,
 * processor seconds of each run.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/tokenizer.h"

/* Of this process, whatever else the machine does. */
static double cpu_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* One pass over the lines, each a text by itself. */
static bool encode_lines(const struct mal_tokenizer *tok, const char *text, size_t bytes,
                         struct mal_ids *out, size_t *out_lines, struct mal_error *err) {
    out->n = *out_lines = 0;
    for (size_t at = 0; at < bytes; ++*out_lines) {
        const char *end = memchr(text + at, '\n', bytes - at);
        size_t n = end ? (size_t)(end - text) - at : bytes - at;
        if (!mal_tokenizer_encode(tok, text + at, n, true, out, err)) return false;
        at += n + 1;
    }
    return true;
}

static bool measure(const struct mal_tokenizer *tok, const char *text, size_t bytes,
                    int runs, struct mal_error *err) {
    struct mal_ids ids = {0};
    size_t n_lines;
    unsigned long long sum = 0;
    bool ok = encode_lines(tok, text, bytes, &ids, &n_lines, err);
    for (size_t i = 0; ok && i < ids.n; i++)
        sum = sum * 31 + (unsigned)ids.ids[i] + 1;
    if (ok) {
        printf("{\"bytes\":%zu,\"lines\":%zu,\"tokens\":%zu,\"checksum\":\"%016llx\","
               "\"seconds\":[",
               bytes, n_lines, ids.n, sum);
    }
    for (int i = 0; ok && i < runs; i++) {
        double begin = cpu_seconds();
        ok = encode_lines(tok, text, bytes, &ids, &n_lines, err);
        printf("%s%.6f", i ? "," : "", cpu_seconds() - begin);
    }
    if (ok) puts("]}");
    mal_ids_finish(&ids);
    return ok;
}

int main(int argc, char **argv) {
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    struct stat st;
    char *text = NULL;
    size_t bytes;
    if (argc != 4) {
        (void)fprintf(stderr, "usage: bench_tokenize TOKENIZER TEXT RUNS\n");
        return 2;
    }
    bool is_dir = stat(argv[1], &st) == 0 && S_ISDIR(st.st_mode);
    bool ok =
        (is_dir ? mal_tokenizer_open : mal_tokenizer_open_file)(&tok, argv[1], &err) &&
        mal_file_read(&text, &bytes, argv[2], (size_t)1 << 30, &err) &&
        measure(tok, text, bytes, (int)strtol(argv[3], NULL, 10), &err);
    if (!ok) (void)fprintf(stderr, "bench_tokenize: %s\n", err.text);
    mal_free(text);
    mal_tokenizer_close(tok);
    return ok ? 0 : 1;
}
