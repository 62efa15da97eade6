/* fuzz_tokenizer.c - a hostile tokenizer.json, vocab.txt or SentencePiece model, and a
 * hostile text for it.
 *
 * The input is a JSON file ({...) or a vocab.txt ([UNK]...), a zero byte, the text; or,
 * where it begins like neither, a model file, the text, one byte that says how long the
 * text is. What opens must give text back for its own ids. */
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
    int32_t last = ids.n ? ids.ids[ids.n - 1] : -1;
    ids.n = 0;
    if (!mal_tokenizer_encode_after(tok, last, text, bytes, &ids, &err))
        assert(ids.n == 0);
    mal_ids_finish(&ids);
}

/* What the name of such a file ends with; NULL: a model. */
static const char *text_ending(const uint8_t *data, size_t bytes) {
    if (bytes > 0 && data[0] == '{') return ".json";
    return bytes > 0 && data[0] == '[' ? "-vocab.txt" : NULL;
}

/* Where the file ends and the text begins and ends. */
static void split(const uint8_t *data, size_t bytes, size_t *out_file, size_t *out_text,
                  size_t *out_end) {
    if (text_ending(data, bytes)) {
        const uint8_t *zero = memchr(data, 0, bytes);
        *out_file = zero ? (size_t)(zero - data) : bytes;
        *out_text = zero ? *out_file + 1 : bytes;
        *out_end = bytes;
        return;
    }
    *out_end = bytes ? bytes - 1 : 0;
    size_t n_text = bytes ? data[bytes - 1] : 0;
    *out_text = *out_file = n_text < *out_end ? *out_end - n_text : 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t bytes) {
    char path[64];
    size_t n_file, text, end;
    const char *ending = text_ending(data, bytes);
    split(data, bytes, &n_file, &text, &end);
    snprintf(path, sizeof path, "%s/malmend-fuzz-%ld%s",
             access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp", (long)getpid(),
             ending ? ending : ".model");
    FILE *file = fopen(path, "wb");
    if (!file) abort();
    fwrite(data, 1, n_file, file);
    fclose(file);
    struct mal_error err = {0};
    struct mal_tokenizer *tok = NULL;
    if (mal_tokenizer_open_file(&tok, path, &err)) {
        use(tok, (const char *)data + text, end - text);
        mal_tokenizer_close(tok);
    }
    remove(path);
    return 0;
}
