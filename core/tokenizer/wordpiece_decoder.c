/* wordpiece_decoder.c - WordPiece tokens to text: blanks between words, the prefix of
 * tokens that go on dropped, and, where the file says so, English punctuation tidied. */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"

struct decoder {
    char *prefix;
    bool cleanup;
};

/* As the package has them, in its order; looked for in each token by itself. */
static const char *const tidy[][2] = {
    {" .", "."},   {" ?", "?"},     {" !", "!"},    {" ,", ","},
    {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},  {" do not", " don't"},
    {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"}};

/* In place: none of them makes the text longer. Returns its new length. */
static size_t replace_all(char *text, size_t bytes, const char *from, const char *to) {
    size_t n_from = strlen(from), used = 0;
    for (size_t at = 0; at < bytes;) {
        if (bytes - at < n_from || memcmp(text + at, from, n_from) != 0) {
            text[used++] = text[at++];
            continue;
        }
        for (const char *c = to; *c; c++)
            text[used++] = *c;
        at += n_from;
    }
    return used;
}

static void clean_up(struct mal_string *text, size_t from) {
    size_t bytes = text->bytes - from;
    for (size_t i = 0; bytes > 0 && i < sizeof tidy / sizeof *tidy; i++)
        bytes = replace_all(text->text + from, bytes, tidy[i][0], tidy[i][1]);
    text->bytes = from + bytes;
}

static bool run(const void *data, const struct mal_pieces *in, bool raw,
                struct mal_pieces *out, struct mal_error *err) {
    (void)raw;
    const struct decoder *decoder = data;
    out->open |= in->joined;
    size_t n_prefix = strlen(decoder->prefix);
    for (size_t i = 0, from = 0; i < in->n; from = in->ends[i++]) {
        const char *token = in->text.text + from;
        size_t bytes = in->ends[i] - from, start = out->text.bytes;
        bool goes_on =
            i > 0 && bytes >= n_prefix && memcmp(token, decoder->prefix, n_prefix) == 0;
        if (goes_on) {
            token += n_prefix;
            bytes -= n_prefix;
        }
        if ((i > 0 && !goes_on && !mal_string_append(&out->text, " ", 1, err)) ||
            !mal_string_append(&out->text, token, bytes, err))
            return false;
        if (decoder->cleanup) clean_up(&out->text, start);
        if (!mal_pieces_end(out, err)) return false;
    }
    return true;
}

static void destroy(void *data) {
    struct decoder *decoder = data;
    mal_free(decoder->prefix);
    mal_free(decoder);
}

bool mal_wordpiece_decoder_add(struct mal_tokenizer *tok, const char *prefix,
                               bool cleanup, const char *where, struct mal_error *err) {
    struct decoder *decoder = mal_calloc(1, sizeof *decoder);
    if (decoder) decoder->prefix = mal_strdup(prefix);
    if (!decoder || !decoder->prefix) {
        mal_free(decoder);
        return mal_fail(err, MAL_NO_MEMORY, "%s: decoder", mal_file_shown(where));
    }
    decoder->cleanup = cleanup;
    return mal_decoder_add(&tok->decoders, (struct mal_decoder){run, destroy, decoder},
                           where, err);
}

bool mal_read_wordpiece_decoder(struct mal_tokenizer *tok, const json_t *part,
                                const char *where, struct mal_error *err) {
    const char *prefix = "##";
    bool cleanup = true;
    return mal_json_string_opt(part, "prefix", &prefix, where, err) &&
           mal_json_bool_opt(part, "cleanup", &cleanup, where, err) &&
           mal_wordpiece_decoder_add(tok, prefix, cleanup, where, err);
}
