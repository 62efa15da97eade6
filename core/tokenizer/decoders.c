/* decoders.c - the steps that decoders are made of, as those of Hugging Face's package.
 */
#include <string.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/tokenizer/parts.h"
#include "core/utf8.h"

static const char REPLACEMENT[] = "\xef\xbf\xbd";

static size_t piece_start(const struct mal_pieces *pieces, size_t i) {
    return i == 0 ? 0 : pieces->ends[i - 1];
}

static bool put(struct mal_pieces *out, const char *text, size_t bytes,
                struct mal_error *err) {
    return mal_string_append(&out->text, text, bytes, err) && mal_pieces_end(out, err);
}

/* ---- ByteLevel ---- */

/* Every longest start of a character that is none becomes one U+FFFD, as
 * from_utf8_lossy() of Rust does. */
static bool append_valid(struct mal_string *out, const char *text, size_t bytes,
                         struct mal_error *err) {
    for (size_t i = 0; i < bytes;) {
        int32_t point;
        size_t n = mal_utf8_next(text + i, bytes - i, &point);
        bool ok = point < 0 ? mal_string_append(out, REPLACEMENT, 3, err)
                            : mal_string_append(out, text + i, n, err);
        if (!ok) return false;
        i += n;
    }
    return true;
}

static bool run_byte_level(const void *data, const struct mal_pieces *in, bool raw,
                           struct mal_pieces *out, struct mal_error *err) {
    (void)data;
    struct mal_string bytes = {0};
    bool ok = mal_string_reserve(&bytes, in->text.bytes, err);
    for (size_t i = 0; ok && i < in->n; i++) {
        size_t from = piece_start(in, i);
        bytes.bytes += mal_byte_level_decode(in->text.text + from, in->ends[i] - from,
                                             bytes.text + bytes.bytes);
    }
    ok = ok && (raw || mal_utf8_valid(bytes.text, bytes.bytes)
                    ? mal_string_append(&out->text, bytes.text, bytes.bytes, err)
                    : append_valid(&out->text, bytes.text, bytes.bytes, err));
    out->open |= mal_utf8_complete_prefix(bytes.text, bytes.bytes) < bytes.bytes;
    out->joined = true;
    mal_string_finish(&bytes);
    return ok && mal_pieces_end(out, err);
}

bool mal_decoder_add_byte_level(struct mal_tokenizer *tok, const char *where,
                                struct mal_error *err) {
    return mal_decoder_add(&tok->decoders, (struct mal_decoder){run_byte_level}, where,
                           err);
}

bool mal_read_byte_level_decoder(struct mal_tokenizer *tok, const json_t *part,
                                 const char *where, struct mal_error *err) {
    (void)part;
    return mal_decoder_add_byte_level(tok, where, err);
}

/* ---- ByteFallback: <0x00> to <0xFF> ---- */

static int hex_digit(char c) {
    static const char digits[] = "0123456789abcdef0123456789ABCDEF";
    const char *at = c ? strchr(digits, c) : NULL;
    return at ? (int)(at - digits) % 16 : -1;
}

static int byte_of_token(const char *token, size_t bytes) {
    if (bytes != 6 || memcmp(token, "<0x", 3) != 0 || token[5] != '>') return -1;
    int high = hex_digit(token[3]), low = hex_digit(token[4]);
    return high < 0 || low < 0 ? -1 : 16 * high + low;
}

/* Bytes in a row are one piece if they are UTF-8, else each is replaced. */
static bool put_bytes(struct mal_pieces *out, struct mal_string *bytes, bool raw,
                      struct mal_error *err) {
    bool ok = true;
    if (bytes->bytes > 0 && (raw || mal_utf8_valid(bytes->text, bytes->bytes))) {
        ok = put(out, bytes->text, bytes->bytes, err);
    } else {
        for (size_t i = 0; ok && i < bytes->bytes; i++)
            ok = put(out, REPLACEMENT, 3, err);
    }
    bytes->bytes = 0;
    return ok;
}

static bool run_byte_fallback(const void *data, const struct mal_pieces *in, bool raw,
                              struct mal_pieces *out, struct mal_error *err) {
    (void)data;
    struct mal_string bytes = {0};
    bool ok = true;
    for (size_t i = 0; ok && i < in->n; i++) {
        size_t from = piece_start(in, i), n = in->ends[i] - from;
        int byte = byte_of_token(in->text.text + from, n);
        char c = (char)byte;
        if (byte >= 0) {
            ok = mal_string_append(&bytes, &c, 1, err);
        } else {
            ok = put_bytes(out, &bytes, raw, err) &&
                 put(out, in->text.text + from, n, err);
        }
    }
    out->open |= bytes.bytes > 0; /* one that follows may make them no UTF-8 */
    ok = ok && put_bytes(out, &bytes, raw, err);
    mal_string_finish(&bytes);
    return ok;
}

bool mal_read_byte_fallback_decoder(struct mal_tokenizer *tok, const json_t *part,
                                    const char *where, struct mal_error *err) {
    (void)part;
    return mal_decoder_add(&tok->decoders, (struct mal_decoder){run_byte_fallback}, where,
                           err);
}

/* ---- Fuse ---- */

static bool run_fuse(const void *data, const struct mal_pieces *in, bool raw,
                     struct mal_pieces *out, struct mal_error *err) {
    (void)data, (void)raw;
    out->joined = true;
    return put(out, in->text.text, in->text.bytes, err);
}

bool mal_read_fuse_decoder(struct mal_tokenizer *tok, const json_t *part,
                           const char *where, struct mal_error *err) {
    (void)part;
    return mal_decoder_add(&tok->decoders, (struct mal_decoder){run_fuse}, where, err);
}

/* ---- Strip: up to so many of a character off the ends of every piece ---- */

struct strip {
    char content[4];
    size_t bytes, start, stop;
};

static bool run_strip(const void *data, const struct mal_pieces *in, bool raw,
                      struct mal_pieces *out, struct mal_error *err) {
    (void)raw;
    const struct strip *strip = data;
    for (size_t i = 0; i < in->n; i++) {
        size_t from = piece_start(in, i), to = in->ends[i];
        const char *text = in->text.text;
        for (size_t k = 0; k < strip->start && to - from >= strip->bytes &&
                           memcmp(text + from, strip->content, strip->bytes) == 0;
             k++)
            from += strip->bytes;
        for (size_t k = 0;
             k < strip->stop && to - from >= strip->bytes &&
             memcmp(text + to - strip->bytes, strip->content, strip->bytes) == 0;
             k++)
            to -= strip->bytes;
        if (!put(out, text + from, to - from, err)) return false;
    }
    return true;
}

bool mal_read_strip_decoder(struct mal_tokenizer *tok, const json_t *part,
                            const char *where, struct mal_error *err) {
    struct strip strip = {0};
    int64_t start, stop;
    if (!mal_part_character(part, "content", strip.content, &strip.bytes, where, err) ||
        !mal_json_int(part, "start", 0, INT32_MAX, &start, where, err) ||
        !mal_json_int(part, "stop", 0, INT32_MAX, &stop, where, err))
        return false;
    strip.start = (size_t)start;
    strip.stop = (size_t)stop;
    struct strip *kept = mal_malloc(sizeof *kept);
    if (!kept) return mal_fail(err, MAL_NO_MEMORY, "%s: decoder", mal_file_shown(where));
    *kept = strip;
    return mal_decoder_add(&tok->decoders,
                           (struct mal_decoder){run_strip, mal_free, kept}, where, err);
}
