/* byte_tokens.c - tokens that stand for one byte each, where a model has no token for a
 * character. */
#include <stdio.h>

#include "core/tokenizer/spm.h"

void mal_byte_tokens(int32_t out[256], const struct mal_vocab *vocab) {
    for (unsigned b = 0; b < 256; b++) {
        char spelled[8];
        int n = snprintf(spelled, sizeof spelled, "<0x%02X>", b);
        int32_t id = mal_vocab_find(vocab, spelled, (size_t)n);
        out[b] = id >= 0 && vocab->tokens[id].in_model ? id : -1;
    }
}

bool mal_byte_tokens_cover(const int32_t byte_id[256], const char *text, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        if (byte_id[(unsigned char)text[i]] < 0) return false;
    }
    return bytes > 0;
}
