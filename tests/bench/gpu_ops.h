/* gpu_ops.h - the sizes that operations are measured at: GPT-J 6B's, or all of them
 * smaller by a factor. */
#ifndef MAL_GPU_OPS_H
#define MAL_GPU_OPS_H

#include "gpu_bench.h"

struct ops_bench {
    struct bench b;
    bool exact; /* products in fp32, not in a type that the device is fast with */
    int64_t c, f, v, heads, head; /* channels, inner, vocabulary, heads of a size */
    int64_t rows, seqs;           /* packed rows of many texts, of how many */
    int64_t rank, blocks;         /* of the hyper-network */
    int64_t scale;
};

/* The unit that multiplies with weights of this type; `tf32`: fp32 may be rounded. */
static inline enum peak unit_of(const struct ops_bench *o, enum mal_dtype dtype,
                                bool tf32) {
    if (o->exact || (dtype == MAL_F32 && !tf32)) return PEAK_FP32;
    return dtype == MAL_F32 ? PEAK_TF32 : PEAK_BF16;
}

/* Activations can be written in bf16, as products read them. */
static inline bool narrows(const struct bench *b) {
    return mal_operand_dtype(b->be, MAL_BF16) == MAL_BF16;
}

void bench_model_ops(struct ops_bench *o);  /* gpu_ops_model.c */
void bench_editor_ops(struct ops_bench *o); /* gpu_ops_editor.c */

#endif
