/* spm_file.h - what a SentencePiece model file says (its message ModelProto). */
#ifndef MAL_SPM_FILE_H
#define MAL_SPM_FILE_H

#include "core/tokenizer/spm.h"

enum mal_spm_type {
    MAL_SPM_NORMAL = 1,
    MAL_SPM_UNKNOWN,
    MAL_SPM_CONTROL,
    MAL_SPM_USER_DEFINED,
    MAL_SPM_UNUSED,
    MAL_SPM_BYTE
};

struct mal_spm_file {
    char *bytes;              /* the file; the pieces and the map lie in it */
    struct mal_piece *pieces; /* (n), by id */
    int64_t *types;           /* (n) of enum mal_spm_type */
    size_t n, capacity;
    int64_t model_type;    /* 1 Unigram, 2 BPE */
    int64_t unk, bos, eos; /* ids, below 0: none; unk is the piece of that type */
    bool byte_fallback;
    const char *charsmap;
    size_t n_charsmap;
    bool add_dummy_prefix, remove_extra_whitespaces, escape_whitespaces;
    bool whitespace_as_suffix;
};

/* Zero-initialise; after a failure too, mal_spm_file_finish() frees. */
bool mal_spm_file_read(struct mal_spm_file *out, const char *path,
                       struct mal_error *err) MAL_CHECK;
void mal_spm_file_finish(struct mal_spm_file *file);

/* Makes the model of a tokenizer that has the file's pieces as its vocabulary:
 * spm_merges.c. */
bool mal_spm_create_bpe(struct mal_tokenizer *tok, const struct mal_spm_file *file,
                        const char *path, struct mal_error *err) MAL_CHECK;

#endif
