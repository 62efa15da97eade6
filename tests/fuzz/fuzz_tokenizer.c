/* fuzz_tokenizer.c - a hostile tokenizer.json, and a hostile text for it.
 *
 * The input is the file, a zero byte, the text. What opens must give text back for its
 * own ids. */
#include <assert.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core/alloc.h"
#include "core/tokenizer/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes);

static void use(const struct mal_tokenizer *tok, const char *text, size_t bytes) {
    struct mal_error err = {0};
    struct mal_ids ids = {0};
    char *back = NULL;
    size_t n_back;
    if (mal_tokenizer_encode(tok, text, bytes, true, &ids, &err)) {
        bool ok =
            mal_tokenizer_decode(tok, ids.ids, ids.n, false, false, &back, &n_back, &err);
        assert(ok);
        mal_free(back);
    }
    mal_ids_finish(&ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    static char path[64];
    if (!path[0])
        snprintf(path, sizeof path, "/tmp/malmend-fuzz-%ld.json", (long)getpid());
    const uint8_t *zero = bytes ? memchr(data, 0, bytes) : NULL;
    size_t n_file = zero ? (size_t)(zero - data) : bytes;
    FILE *file = fopen(path, "wb");
    if (!file) abort();
    fwrite(data, 1, n_file, file);
    fclose(file);
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    if (mal_tokenizer_open_file(&tok, path, &err)) {
        if (zero) use(tok, (const char *)zero + 1, bytes - n_file - 1);
        mal_tokenizer_close(tok);
    }
    remove(path);
    return 0;
}
