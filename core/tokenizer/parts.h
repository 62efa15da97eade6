/* parts.h - what a tokenizer is made of; only for the files of this folder.
 *
 * Text runs through: added tokens cut out of it, normalizers (text to text), added tokens
 * again, pre-tokenizer (steps that cut it into words), model (word to ids),
 * post-processor (ids put before and after). Ids become tokens, and decoders turn these
 * into text. A further kind of a part is a file whose function reads it from a
 * tokenizer.json, and a line in a table of tokenizer_json.c. */
#ifndef MAL_PARTS_H
#define MAL_PARTS_H

#include <jansson.h>

#include "core/tokenizer/tokenizer.h"

/* Ids are array indices here, so a file must not choose huge ones. */
enum {
    MAL_MAX_TOKEN_ID = 10 * 1000 * 1000,
    MAL_MAX_STEPS = 16, /* of the normalizer, the pre-tokenizer, the decoder */
    MAL_MAX_ADDED_BYTES = 1024
};

struct mal_encode_run;

/* ---- Text that grows: string.c ---- */

struct mal_string {
    char *text; /* NULL while nothing was reserved; no closing zero */
    size_t bytes, capacity;
};

bool mal_string_reserve(struct mal_string *string, size_t more,
                        struct mal_error *err) MAL_CHECK;
bool mal_string_append(struct mal_string *string, const char *text, size_t bytes,
                       struct mal_error *err) MAL_CHECK;
void mal_string_finish(struct mal_string *string);

/* ---- Vocabulary: vocab.c ---- */

struct mal_token {
    uint32_t offset, bytes;         /* in mal_vocab.text */
    uint32_t out_offset, out_bytes; /* likewise, what it is decoded to */
    bool in_model;                  /* neither this nor is_added: no token has this id */
    bool is_added, is_special;
};

struct mal_vocab {
    char *text; /* the tokens as written in the file, one after the other */
    size_t text_used, text_capacity;
    struct mal_token *tokens; /* (size), by id */
    size_t tokens_capacity;
    int32_t size;   /* highest id + 1 */
    int32_t *slots; /* hash table: id + 1, 0 is free */
    size_t n_slots, n_used;
};

/* Adds the members of {"token": id}. `where` names the file in errors, here and below. */
bool mal_vocab_read(struct mal_vocab *vocab, const json_t *object, const char *where,
                    struct mal_error *err) MAL_CHECK;
/* `token` must not be there yet; an id that is taken or out of range is an error. */
bool mal_vocab_add(struct mal_vocab *vocab, const char *token, size_t bytes, int64_t id,
                   const char *where, struct mal_error *err) MAL_CHECK;
/* Another text that a token is decoded to. */
bool mal_vocab_decode_as(struct mal_vocab *vocab, int32_t id, const char *text,
                         size_t bytes, const char *where,
                         struct mal_error *err) MAL_CHECK;
int32_t mal_vocab_find(const struct mal_vocab *vocab, const char *token,
                       size_t bytes); /* -1: none */
void mal_vocab_finish(struct mal_vocab *vocab);

/* ---- GPT-2's alphabet, a printable character for each byte: byte_level.c ---- */

size_t mal_byte_level_put(unsigned char byte, char out[4]);
/* The bytes that `token` stands for, at most as many as it has; as it is when it holds a
 * character outside of the alphabet. Returns their number. */
size_t mal_byte_level_decode(const char *token, size_t bytes, char *out);

/* ---- Patterns: pattern.c (PCRE2), regex.c ---- */

extern const char mal_gpt2_pattern[], mal_qwen2_pattern[];
extern const char mal_word_pattern[]; /* a character of a word first: \w of Rust */

/* A pattern as Oniguruma reads it, which is what Hugging Face uses, for PCRE2. Owned by
 * the caller; what would mean something else to PCRE2 and cannot be expressed is
 * MAL_INVALID. */
bool mal_regex_translate(char **out, const char *regex, const char *where,
                         struct mal_error *err) MAL_CHECK;

struct mal_pattern; /* immutable */

bool mal_pattern_create(struct mal_pattern **out, const char *regex, const char *where,
                        struct mal_error *err) MAL_CHECK;
bool mal_pattern_create_literal(struct mal_pattern **out, const char *text,
                                const char *where, struct mal_error *err) MAL_CHECK;
void mal_pattern_destroy(struct mal_pattern *pattern); /* takes NULL */

/* What a thread matches with, any pattern. */
struct mal_matcher;

bool mal_matcher_create(struct mal_matcher **out, struct mal_error *err) MAL_CHECK;
void mal_matcher_destroy(struct mal_matcher *matcher); /* takes NULL */

/* A walk over the matches in a text, which is valid UTF-8. */
struct mal_match_walk {
    const struct mal_pattern *pattern;
    struct mal_matcher *matcher;
    const char *text;
    size_t bytes, next;
    size_t last_end;
    bool any; /* last_end is the end of a match */
};

/* Appends `text` with `content` in the place of every match. */
bool mal_pattern_replace(const struct mal_pattern *pattern, struct mal_matcher *matcher,
                         const char *text, size_t bytes, const char *content,
                         struct mal_string *out, struct mal_error *err) MAL_CHECK;

bool mal_match_next(struct mal_match_walk *walk, size_t *out_start, size_t *out_end,
                    bool *out_found, struct mal_error *err) MAL_CHECK;

/* ---- Normalizers: normalize.c, normalizers.c, bert.c ---- */

/* A kind of step fills this; `data` is its own, immutable and owned (destroy may be
 * NULL).
 */
struct mal_normalizer {
    /* Appends what `text` (valid UTF-8, as must be what is appended) becomes. */
    bool (*run)(const void *data, struct mal_matcher *matcher, const char *text,
                size_t bytes, struct mal_string *out, struct mal_error *err);
    void (*destroy)(void *data);
    void *data;
    bool only_prefix; /* it puts something before the text, and nothing else: left out
                         where the text goes on with another */
    /* Whether the first character of the text goes. NULL: it never does. */
    bool (*drops_first)(const void *data, struct mal_matcher *matcher, const char *text,
                        size_t bytes, bool *out, struct mal_error *err);
};

struct mal_normalizers {
    struct mal_normalizer steps[MAL_MAX_STEPS];
    size_t n;
};

/* Adds a step behind the others; its data is owned, also on failure. */
bool mal_normalizer_add(struct mal_normalizers *list, struct mal_normalizer step,
                        const char *where, struct mal_error *err) MAL_CHECK;
void mal_normalizers_finish(struct mal_normalizers *list);
/* *text, *bytes become those of the normalized text, `goes_on`: without a prefix, which
 * is the same or in one of `work`. *out_cut: it begins behind where the text began. */
bool mal_normalize(const struct mal_normalizers *list, struct mal_matcher *matcher,
                   bool goes_on, struct mal_string work[2], const char **text,
                   size_t *bytes, bool *out_cut, struct mal_error *err) MAL_CHECK;

/* ---- Added tokens: added_tokens.c ---- */

struct mal_added_token {
    int64_t id;
    char *content; /* owned by the set */
    size_t bytes;  /* 1 to MAL_MAX_ADDED_BYTES */
    bool single_word, lstrip, rstrip, normalized, special;
};

/* Tokens that are looked for together: those that match the text as it came, or those
 * that match it normalized. Sorted by content. */
struct mal_added_set {
    struct mal_added_token *tokens;
    size_t n, capacity;
    size_t first[257]; /* tokens whose content begins with byte b: [first[b], first[b +
                          1]) */
};

struct mal_added_tokens {
    struct mal_added_set raw, normalized;
    struct mal_pattern *word; /* NULL: no token is single_word */
};

/* A piece of a text: a token, or (id -1) text between tokens. */
struct mal_added_piece {
    size_t start, end;
    int32_t id;
};

/* A walk over the pieces of a text. */
struct mal_added_walk {
    const struct mal_added_tokens *added;
    const struct mal_added_set *set;
    struct mal_matcher *matcher;
    const char *text;
    size_t bytes;
    size_t searched, emitted; /* up to where */
    struct mal_added_piece
        *pending; /* NULL, or `held`: it follows the text just returned */
    struct mal_added_piece held;
    bool done;
};

/* Puts the token into `vocab` too, or marks it there; its content is copied. Tokens
 * without content match nothing and are left out. */
bool mal_added_add(struct mal_added_tokens *added, struct mal_vocab *vocab,
                   const struct mal_added_token *token, const char *where,
                   struct mal_error *err) MAL_CHECK;
/* After the last mal_added_add(); tokens that match normalized text are normalized, and
 * so is what they are decoded to. */
bool mal_added_ready(struct mal_added_tokens *added, struct mal_vocab *vocab,
                     const struct mal_normalizers *normalizers, const char *where,
                     struct mal_error *err) MAL_CHECK;
void mal_added_finish(struct mal_added_tokens *added);

/* NULL: it is none of the set. */
const struct mal_added_token *mal_added_find(const struct mal_added_set *set, int32_t id);

/* White space from `from` on, and what ends at `end`, not before `stop`. */
size_t mal_skip_space(const char *text, size_t from, size_t bytes);
size_t mal_skip_space_back(const char *text, size_t end, size_t stop);

bool mal_added_next(struct mal_added_walk *walk, struct mal_added_piece *out,
                    bool *out_found, struct mal_error *err) MAL_CHECK;

/* ---- Models ---- */

/* Memory a model works in during one call. */
struct mal_scratch {
    void *mem;
    size_t capacity;
};

bool mal_scratch_reserve(struct mal_scratch *scratch, size_t bytes,
                         struct mal_error *err) MAL_CHECK;

struct mal_word_model {
    /* Appends the ids of one word (valid UTF-8). */
    bool (*encode)(const struct mal_word_model *model, struct mal_scratch *scratch,
                   const char *word, size_t bytes, struct mal_ids *out,
                   struct mal_error *err);
    void (*destroy)(struct mal_word_model *model);
};

/* ---- Merges: merges.c ---- */

struct mal_merge {
    int32_t left, right, id; /* in the table: left is -1 in a free slot */
    uint32_t rank;           /* lower ones first */
};

struct mal_merges {
    struct mal_merge *slots; /* hash table */
    size_t n_slots;
};

/* For at most `n` merges. */
bool mal_merges_init(struct mal_merges *merges, size_t n, const char *where,
                     struct mal_error *err) MAL_CHECK;
void mal_merges_put(struct mal_merges *merges, struct mal_merge merge);
void mal_merges_finish(struct mal_merges *merges);
/* Merges the `n` symbols in place and returns how many are left. `space` has
 * mal_merges_space(n) bytes, which grow with n. */
size_t mal_merges_apply(const struct mal_merges *merges, int32_t *ids, size_t n,
                        void *space);
size_t mal_merges_space(size_t n);

/* ---- BPE: bpe.c, bpe_chars.c, bpe_files.c, bpe_json.c ---- */

struct mal_bpe;

struct mal_bpe_options {
    const char *unk_token; /* NULL: what has no token is dropped */
    bool fuse_unk;
    bool ignore_merges; /* a word that is a token is not merged from its bytes */
    bool characters;    /* the symbols are characters, not bytes in GPT-2's alphabet */
    bool byte_fallback; /* characters without a token become tokens of bytes */
};

/* Borrows `vocab`, which must hold all tokens of the model. */
bool mal_bpe_create(struct mal_bpe **out, const struct mal_vocab *vocab, size_t n_merges,
                    const struct mal_bpe_options *options, const char *where,
                    struct mal_error *err) MAL_CHECK;
/* At most n_merges times, in the order of the file; `i` is for errors. */
bool mal_bpe_add_merge(struct mal_bpe *bpe, const char *left, size_t left_bytes,
                       const char *right, size_t right_bytes, size_t i, const char *where,
                       struct mal_error *err) MAL_CHECK;
/* "left right" in one string. */
bool mal_bpe_add_line(struct mal_bpe *bpe, const char *line, size_t bytes, size_t i,
                      const char *where, struct mal_error *err) MAL_CHECK;
/* As mal_bpe_add_merge(), for ids that are there. */
void mal_bpe_put_merge(struct mal_bpe *bpe, struct mal_merge merge);
struct mal_word_model *mal_bpe_model(struct mal_bpe *bpe);

/* ---- WordPiece: wordpiece.c ---- */

struct mal_wordpiece_options {
    const char *unk_token, *continuing_subword_prefix;
    size_t max_input_chars_per_word;
};

/* Borrows `vocab`, which must hold the tokens of the model and no others yet. */
bool mal_wordpiece_create(struct mal_word_model **out, const struct mal_vocab *vocab,
                          const struct mal_wordpiece_options *options, const char *where,
                          struct mal_error *err) MAL_CHECK;

/* ---- Pre-tokenizer: pretokenize.c, pre_split.c, bert.c, metaspace.c ---- */

struct mal_pre_step {
    /* Hands every piece of the text (not empty) that it makes to mal_pre_pass(). */
    bool (*run)(const void *data, struct mal_encode_run *run, size_t i_step,
                const char *text, size_t bytes, struct mal_error *err);
    void (*destroy)(void *data);
    void *data;
};

struct mal_pretokenizer {
    struct mal_pre_step steps[MAL_MAX_STEPS];
    size_t n_steps;
};

/* Adds a step behind the others; its data is owned, also on failure. */
bool mal_pre_add(struct mal_tokenizer *tok, struct mal_pre_step step, const char *where,
                 struct mal_error *err) MAL_CHECK;
void mal_pre_finish(struct mal_pretokenizer *pre);
/* Step i_step is through with a piece, which may be empty: on to the next step, behind
 * the last to the model. A step that makes text of its own may keep it in
 * run->made[i_step]. */
bool mal_pre_pass(struct mal_encode_run *run, size_t i_step, const char *text,
                  size_t bytes, struct mal_error *err) MAL_CHECK;
/* All steps. */
bool mal_pre_run(struct mal_encode_run *run, const char *text, size_t bytes,
                 struct mal_error *err) MAL_CHECK;

/* ---- Decoders: decode.c, decoders.c, replace.c, ... ---- */

/* Tokens on their way to text: piece i is text[ends[i - 1], ends[i]). */
struct mal_pieces {
    struct mal_string text;
    size_t *ends;
    size_t n, capacity;
    bool joined; /* they do not end where tokens end */
    bool open;   /* further tokens may change them, not only add to them */
};

bool mal_pieces_end(struct mal_pieces *pieces, struct mal_error *err) MAL_CHECK;

struct mal_decoder {
    /* Appends what the pieces become to `out`, each ended. `raw`: bytes that are no UTF-8
     * are kept, not replaced. `out` is joined and open as `in` is, if not more. */
    bool (*run)(const void *data, const struct mal_pieces *in, bool raw,
                struct mal_pieces *out, struct mal_error *err);
    void (*destroy)(void *data);
    void *data;
};

struct mal_decoders {
    struct mal_decoder steps[MAL_MAX_STEPS];
    size_t n;
};

/* Adds a step behind the others; its data is owned, also on failure. */
bool mal_decoder_add(struct mal_decoders *list, struct mal_decoder step,
                     const char *where, struct mal_error *err) MAL_CHECK;
void mal_decoders_finish(struct mal_decoders *list);
bool mal_decoder_add_byte_level(struct mal_tokenizer *tok, const char *where,
                                struct mal_error *err) MAL_CHECK;
/* Appends what the tokens become. *out_open: as of pieces. */
bool mal_decode(const struct mal_decoders *list, struct mal_pieces *tokens, bool raw,
                struct mal_string *out, bool *out_open, struct mal_error *err) MAL_CHECK;
void mal_pieces_finish(struct mal_pieces *pieces);

/* ---- The whole ---- */

struct mal_tokenizer {
    struct mal_vocab vocab;
    struct mal_added_tokens added;
    struct mal_normalizers normalizers;
    struct mal_pretokenizer pretokenizer;
    struct mal_word_model *model;
    struct mal_ids before, after; /* what the post-processor adds */
    struct mal_decoders decoders;
    bool byte_level_words; /* the pre-tokenizer ends with the byte alphabet: the model
                              gets bytes as they are, and its tokens are spelled in it */
};

/* The state of one call of mal_tokenizer_encode(). */
struct mal_encode_run {
    const struct mal_tokenizer *tok;
    struct mal_matcher *matcher;
    struct mal_string normalized[2], made[MAL_MAX_STEPS];
    struct mal_scratch scratch;
    const char *start; /* the piece of text that begins where the whole text does */
    bool cut;          /* that piece lacks what the text began with */
    bool goes_on;      /* the whole text follows another: no prefix before that piece */
    struct mal_ids *out;
};

/* Fill an empty tokenizer. */
bool mal_tokenizer_read_json(struct mal_tokenizer *tok, const char *path,
                             struct mal_error *err) MAL_CHECK;
/* From a file that is not a tokenizer.json, and what lies beside it: `path` is `stem`
 * bytes (folder, what the name begins with) and the name that original_files in
 * tokenizer.c has. */
bool mal_tokenizer_read_bpe_files(struct mal_tokenizer *tok, const char *path,
                                  size_t stem, struct mal_error *err) MAL_CHECK;
bool mal_tokenizer_read_wordpiece_files(struct mal_tokenizer *tok, const char *path,
                                        size_t stem, struct mal_error *err) MAL_CHECK;
bool mal_tokenizer_read_spm(struct mal_tokenizer *tok, const char *path, size_t stem,
                            struct mal_error *err) MAL_CHECK;
/* Adds the normalizer, pre-tokenizer and decoder of an object like a tokenizer.json,
 * which may lack any of them. */
bool mal_tokenizer_read_parts(struct mal_tokenizer *tok, const json_t *root,
                              const char *where, struct mal_error *err) MAL_CHECK;
/* GPT-2's pre-tokenizer, `prefix`: with a space put before the text. */
bool mal_tokenizer_set_byte_level(struct mal_tokenizer *tok, bool prefix, bool split,
                                  const char *where, struct mal_error *err) MAL_CHECK;

/* ---- What the readers of original files share with those of a tokenizer.json ---- */

struct mal_bert_options {
    bool clean_text, handle_chinese_chars, strip_accents, lowercase;
};

bool mal_bert_normalizer_add(struct mal_tokenizer *tok,
                             const struct mal_bert_options *options, const char *where,
                             struct mal_error *err) MAL_CHECK;
bool mal_bert_words_add(struct mal_tokenizer *tok, const char *where,
                        struct mal_error *err) MAL_CHECK;
bool mal_wordpiece_decoder_add(struct mal_tokenizer *tok, const char *prefix,
                               bool cleanup, const char *where,
                               struct mal_error *err) MAL_CHECK;
/* The pre-tokenizer by a pattern whose matches are words, and so is what is between. */
bool mal_pre_add_pattern(struct mal_tokenizer *tok, const char *regex, const char *where,
                         struct mal_error *err) MAL_CHECK;
bool mal_normalizer_add_nfc(struct mal_tokenizer *tok, const char *where,
                            struct mal_error *err) MAL_CHECK;
/* Puts further ids around what the post-processor adds; both lists are emptied. */
bool mal_put_around(struct mal_tokenizer *tok, struct mal_ids *before,
                    struct mal_ids *after, struct mal_error *err) MAL_CHECK;

/* id -1: the object says it. */
bool mal_read_added_token(struct mal_tokenizer *tok, const json_t *object, int64_t id,
                          const char *where, struct mal_error *err) MAL_CHECK;

/* ---- Beside original files: beside.c ---- */

/* The first `stem` bytes of `path` and `name`, owned by the caller. */
bool mal_path_beside(char **out, const char *path, size_t stem, const char *name,
                     struct mal_error *err) MAL_CHECK;

/* A JSON file in the folder of another file. */
struct mal_beside {
    char *path;
    json_t *object; /* NULL: there is no such file */
};

/* To be closed, also on failure. */
bool mal_beside_open(struct mal_beside *out, const char *path, const char *name,
                     struct mal_error *err) MAL_CHECK;
void mal_beside_close(struct mal_beside *beside);

/* added_tokens_decoder. */
bool mal_add_listed_tokens(struct mal_tokenizer *tok, const struct mal_beside *config,
                           struct mal_error *err) MAL_CHECK;
/* A token named by `key` as a string or an object with its content; as it was if not. */
bool mal_special_name(const struct mal_beside *config, const char *key, const char **out,
                      struct mal_error *err) MAL_CHECK;
/* A token of the vocabulary becomes a special one; nothing happens where it is none, or
 * NULL, or an added token already. */
bool mal_add_special_token(struct mal_tokenizer *tok, const char *name, const char *where,
                           struct mal_error *err) MAL_CHECK;

/* ---- Parts of a tokenizer.json ---- */

/* Reads a part of its kind; `where` names the file. Normalizers, pre-tokenizer and
 * decoder are read first, then the model, which fills the vocabulary, then the
 * post-processor. */
#define MAL_PART(name)                                                  \
    bool mal_read_##name(struct mal_tokenizer *tok, const json_t *part, \
                         const char *where, struct mal_error *err) MAL_CHECK

MAL_PART(bert_normalizer);
MAL_PART(lowercase);
MAL_PART(nfc);
MAL_PART(nfd);
MAL_PART(nfkc);
MAL_PART(nfkd);
MAL_PART(precompiled);
MAL_PART(prepend);
MAL_PART(replace);
MAL_PART(strip);
MAL_PART(strip_accents);
MAL_PART(bert_words);
MAL_PART(byte_level_words);
MAL_PART(split);
MAL_PART(digits);
MAL_PART(metaspace_words);
MAL_PART(whitespace_split);
MAL_PART(bpe_model);
MAL_PART(unigram_model);
MAL_PART(wordpiece_model);
MAL_PART(bert_processing);
MAL_PART(template);
MAL_PART(byte_level_decoder);
MAL_PART(metaspace_decoder);
MAL_PART(byte_fallback_decoder);
MAL_PART(fuse_decoder);
MAL_PART(strip_decoder);
MAL_PART(replace_decoder);
MAL_PART(wordpiece_decoder);

/* For them: both are always false. */
bool mal_part_unsupported(const char *what, const char *type, const char *where,
                          struct mal_error *err);
bool mal_part_must_be(const char *what, const char *kind, const char *where,
                      struct mal_error *err);
/* The "pattern" of a `what`: {"Regex"} or {"String"}. */
bool mal_pattern_read(const json_t *part, const char *what, struct mal_pattern **out,
                      const char *where, struct mal_error *err) MAL_CHECK;
/* A member that is a single character. */
bool mal_part_character(const json_t *part, const char *key, char out[4],
                        size_t *out_bytes, const char *where,
                        struct mal_error *err) MAL_CHECK;
bool mal_part_array(const json_t *object, const char *key, const json_t **out,
                    const char *where, struct mal_error *err) MAL_CHECK;

#endif
