/* metaspace.c - Metaspace: blanks written as a character of their own (U+2581), in the
 * pre-tokenizer and back in the decoder. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

enum scheme { ALWAYS, FIRST, NEVER };

struct metaspace {
    char mark[4];
    size_t bytes;
    enum scheme prepend; /* a mark before text that begins with none */
    bool split;
};

static bool starts_with_mark(const struct metaspace *meta, const char *text,
                             size_t bytes) {
    return bytes >= meta->bytes && memcmp(text, meta->mark, meta->bytes) == 0;
}

/* Every mark begins a piece. */
static bool pass_split(const struct metaspace *meta, struct mal_encode_run *run,
                       size_t i_step, const struct mal_string *made,
                       struct mal_error *err) {
    size_t from = 0;
    for (size_t at = 0; at < made->bytes; at++) {
        if (at == from || !starts_with_mark(meta, made->text + at, made->bytes - at))
            continue;
        if (!mal_pre_pass(run, i_step, made->text + from, at - from, err)) return false;
        from = at;
    }
    return mal_pre_pass(run, i_step, made->text + from, made->bytes - from, err);
}

static bool run_words(const void *data, struct mal_encode_run *run, size_t i_step,
                      const char *text, size_t bytes, struct mal_error *err) {
    const struct metaspace *meta = data;
    struct mal_string *made = &run->made[i_step];
    bool first = text == run->start;
    /* Hugging Face asks whether the piece's first character is that of the text. */
    bool prepend =
        meta->prepend == ALWAYS || (meta->prepend == FIRST && first && !run->cut);
    if (first && run->goes_on) prepend = false;
    made->bytes = 0;
    if (prepend && text[0] != ' ' && !starts_with_mark(meta, text, bytes) &&
        !mal_string_append(made, meta->mark, meta->bytes, err))
        return false;
    for (size_t at = 0; at < bytes;) {
        const char *blank = memchr(text + at, ' ', bytes - at);
        size_t n = blank ? (size_t)(blank - text) - at : bytes - at;
        if (!mal_string_append(made, text + at, n, err) ||
            (blank && !mal_string_append(made, meta->mark, meta->bytes, err)))
            return false;
        at += n + 1;
    }
    if (meta->split) return pass_split(meta, run, i_step, made, err);
    return mal_pre_pass(run, i_step, made->text, made->bytes, err);
}

/* In the first token marks are what was put before the text. */
static bool decode(const void *data, const struct mal_pieces *in, bool raw,
                   struct mal_pieces *out, struct mal_error *err) {
    (void)raw;
    const struct metaspace *meta = data;
    for (size_t i = 0, at = 0; i < in->n; i++) {
        bool drop = i == 0 && meta->prepend != NEVER;
        while (at < in->ends[i]) {
            const char *text = in->text.text + at;
            bool mark = starts_with_mark(meta, text, in->ends[i] - at);
            size_t n = mark ? meta->bytes : 1;
            bool ok = mark ? drop || mal_string_append(&out->text, " ", 1, err)
                           : mal_string_append(&out->text, text, 1, err);
            if (!ok) return false;
            at += n;
        }
        if (!mal_pieces_end(out, err)) return false;
    }
    return true;
}

static bool read_scheme(const json_t *part, enum scheme *out, const char *where,
                        struct mal_error *err) {
    static const char *const names[] = {"always", "first", "never"};
    const char *name = NULL;
    bool add_prefix_space = true; /* older files say only this */
    if (!mal_json_string_opt(part, "prepend_scheme", &name, where, err) ||
        !mal_json_bool_opt(part, "add_prefix_space", &add_prefix_space, where, err))
        return false;
    *out = add_prefix_space ? ALWAYS : NEVER;
    if (!name) return true;
    for (size_t i = 0; i < 3; i++) {
        if (strcmp(name, names[i]) != 0) continue;
        *out = (enum scheme)i;
        return true;
    }
    return mal_part_unsupported("prepend_scheme", name, where, err);
}

static bool read_metaspace(struct metaspace **out, const json_t *part, const char *where,
                           struct mal_error *err) {
    struct metaspace meta = {.split = true};
    if (!mal_part_character(part, "replacement", meta.mark, &meta.bytes, where, err) ||
        !mal_json_bool_opt(part, "split", &meta.split, where, err) ||
        !read_scheme(part, &meta.prepend, where, err))
        return false;
    *out = mal_malloc(sizeof **out);
    if (!*out)
        return mal_fail(err, MAL_NO_MEMORY, "%s: Metaspace", mal_file_shown(where));
    **out = meta;
    return true;
}

bool mal_read_metaspace_words(struct mal_tokenizer *tok, const json_t *part,
                              const char *where, struct mal_error *err) {
    struct metaspace *meta = NULL;
    return read_metaspace(&meta, part, where, err) &&
           mal_pre_add(tok, (struct mal_pre_step){run_words, mal_free, meta}, where, err);
}

bool mal_read_metaspace_decoder(struct mal_tokenizer *tok, const json_t *part,
                                const char *where, struct mal_error *err) {
    struct metaspace *meta = NULL;
    return read_metaspace(&meta, part, where, err) &&
           mal_decoder_add(&tok->decoders, (struct mal_decoder){decode, mal_free, meta},
                           where, err);
}
