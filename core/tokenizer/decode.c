/* decode.c - tokens to text through the decoders of a tokenizer. */
#include "core/alloc.h"
#include "core/file.h"
#include "core/tokenizer/parts.h"

bool mal_decoder_add(struct mal_decoders *list, struct mal_decoder step,
                     const char *where, struct mal_error *err) {
    if (list->n == MAL_MAX_STEPS) {
        if (step.destroy) step.destroy(step.data);
        return mal_fail(err, MAL_INVALID, "%s: the decoder has more than %d steps",
                        mal_file_shown(where), MAL_MAX_STEPS);
    }
    list->steps[list->n++] = step;
    return true;
}

void mal_decoders_finish(struct mal_decoders *list) {
    for (size_t i = 0; i < list->n; i++) {
        if (list->steps[i].destroy) list->steps[i].destroy(list->steps[i].data);
    }
    *list = (struct mal_decoders){0};
}

bool mal_pieces_end(struct mal_pieces *pieces, struct mal_error *err) {
    if (pieces->n == pieces->capacity) {
        size_t capacity = 2 * pieces->capacity + 16;
        size_t *ends = mal_realloc(pieces->ends, capacity * sizeof *ends);
        if (!ends) return mal_fail(err, MAL_NO_MEMORY, "decoding token ids");
        pieces->ends = ends;
        pieces->capacity = capacity;
    }
    pieces->ends[pieces->n++] = pieces->text.bytes;
    return true;
}

void mal_pieces_finish(struct mal_pieces *pieces) {
    mal_string_finish(&pieces->text);
    mal_free(pieces->ends);
    *pieces = (struct mal_pieces){0};
}

/* Without a decoder, tokens are put side by side with blanks between. */
static bool join(const struct mal_pieces *pieces, const char *between, size_t n_between,
                 struct mal_string *out, struct mal_error *err) {
    size_t from = 0;
    for (size_t i = 0; i < pieces->n; i++) {
        if (i > 0 && !mal_string_append(out, between, n_between, err)) return false;
        if (!mal_string_append(out, pieces->text.text + from, pieces->ends[i] - from,
                               err))
            return false;
        from = pieces->ends[i];
    }
    return true;
}

bool mal_decode(const struct mal_decoders *list, struct mal_pieces *tokens, bool raw,
                struct mal_string *out, bool *out_open, struct mal_error *err) {
    struct mal_pieces made = {0}, *in = tokens, *next = &made;
    /* Tokens of no bytes have a text, too. */
    bool ok = mal_string_reserve(&tokens->text, 1, err);
    for (size_t i = 0; ok && i < list->n; i++) {
        const struct mal_decoder *step = &list->steps[i];
        next->n = next->text.bytes = 0;
        next->joined = in->joined;
        next->open = in->open;
        ok = mal_string_reserve(&next->text, 1, err) &&
             step->run(step->data, in, raw, next, err);
        struct mal_pieces *last = in;
        in = next;
        next = last;
    }
    ok = ok && join(in, " ", list->n == 0, out, err);
    *out_open = in->open;
    mal_pieces_finish(&made);
    return ok;
}
