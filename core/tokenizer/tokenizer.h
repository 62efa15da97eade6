/* tokenizer.h - text to token ids and back, equal to the Hugging Face ids.
 *
 * Reads tokenizer.json, or the original files of a family: byte-level BPE (vocab.json +
 * merges.txt, or encoder.json + vocab.bpe), WordPiece (vocab.txt), SentencePiece
 * (spiece.model, tokenizer.model), each with what tokenizer_config.json says beside them.
 * Truncation and padding written in a tokenizer.json are not applied. Read-only after
 * opening: safe from several threads. */
#ifndef MAL_TOKENIZER_H
#define MAL_TOKENIZER_H

#include <stdbool.h>
#include <stdint.h>

#include "core/error.h"

struct mal_tokenizer;

/* A growing list of ids. Zero-initialise; mal_ids_finish() frees and zeroes. */
struct mal_ids {
    int32_t *ids;
    size_t n, capacity;
};

bool mal_ids_push(struct mal_ids *list, int32_t id, struct mal_error *err) MAL_CHECK;
void mal_ids_finish(struct mal_ids *list);

/* `dir` is a model directory. Errors name the file. */
bool mal_tokenizer_open(struct mal_tokenizer **out, const char *dir,
                        struct mal_error *err) MAL_CHECK;
/* As mal_tokenizer_open(), from a file of any folder: a name that ends in one of an
 * original file (bert-vocab.txt) or in .model is read as that, any other as a
 * tokenizer.json. */
bool mal_tokenizer_open_file(struct mal_tokenizer **out, const char *path,
                             struct mal_error *err) MAL_CHECK;
void mal_tokenizer_close(struct mal_tokenizer *tok); /* takes NULL */

int32_t mal_tokenizer_size(const struct mal_tokenizer *tok); /* highest id + 1 */
/* The same without added tokens that are none of the model's vocabulary. */
int32_t mal_tokenizer_size_of_model(const struct mal_tokenizer *tok);

/* Appends the ids of `text` (bytes, need not end in zero). `add_special`: also what the
 * post-processor adds (begin, end of text). Special tokens written in the text are
 * recognised either way. Linear in the length of the text. Invalid UTF-8 is MAL_INVALID.
 */
bool mal_tokenizer_encode(const struct mal_tokenizer *tok, const char *text, size_t bytes,
                          bool add_special, struct mal_ids *out,
                          struct mal_error *err) MAL_CHECK;

/* As mal_tokenizer_encode() with `add_special`, of a text that is to go on: nothing is
 * put behind it. */
bool mal_tokenizer_encode_before(const struct mal_tokenizer *tok, const char *text,
                                 size_t bytes, struct mal_ids *out,
                                 struct mal_error *err) MAL_CHECK;

/* Appends the ids of `text` as it goes on after another text, whose last id is `last`: as
 * mal_tokenizer_encode() without `add_special`, but nothing is put before it. " Paris" is
 * one blank and a word for SentencePiece's models too, which begin every text with a
 * blank of their own. Some begin so what follows a special token too: then that is there
 * after one. */
bool mal_tokenizer_encode_after(const struct mal_tokenizer *tok, int32_t last,
                                const char *text, size_t bytes, struct mal_ids *out,
                                struct mal_error *err) MAL_CHECK;

/* Owned text in *out with a closing zero, its length in *out_bytes. Special tokens are
 * kept unless `skip_special`. Bytes that are no UTF-8 are kept as they are when `raw` (a
 * stream cut in the middle of a character), else replaced by U+FFFD as Hugging Face does.
 * An id out of range is MAL_INVALID; one in range that has no token gives nothing. */
bool mal_tokenizer_decode(const struct mal_tokenizer *tok, const int32_t *ids, size_t n,
                          bool skip_special, bool raw, char **out, size_t *out_bytes,
                          struct mal_error *err) MAL_CHECK;

/* The same, not raw, of ids that others may follow. *out_open false: the text of any
 * longer list begins with this one. True: it may not, as with a character cut at the end.
 */
bool mal_tokenizer_decode_so_far(const struct mal_tokenizer *tok, const int32_t *ids,
                                 size_t n, bool skip_special, char **out,
                                 size_t *out_bytes, bool *out_open,
                                 struct mal_error *err) MAL_CHECK;

/* The id of a token written exactly so, -1: none. */
int32_t mal_tokenizer_id(const struct mal_tokenizer *tok, const char *token);
bool mal_tokenizer_is_special(const struct mal_tokenizer *tok, int32_t id);

#endif
