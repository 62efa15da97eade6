/* gpu_edit.h - what the measurement of whole edits has open. */
#ifndef MAL_GPU_EDIT_H
#define MAL_GPU_EDIT_H

#include "core/editor/edit_rows.h"
#include "core/editor/joint.h"
#include "core/tokenizer/tokenizer.h"
#include "core/weights_state.h"
#include "gpu_bench.h"
#include "gpu_model.h"

struct reading;

struct edit_bench {
    const char *device, *dir;
    struct gpu_model_shape shape;
    struct peaks peaks;
    int64_t rank, blocks, rounds, slice;
    int tokens, keep;
    bool exact; /* products in fp32 */
    struct mal_backend *be;
    struct mal_model *model;
    struct mal_tokenizer *tok;
    struct mal_editor *editor;
    struct mal_weights_state *ws;
    struct mal_fact *facts;
    size_t n_facts;
    struct mal_joint *joint; /* of the cases "joint" that follow each other */
    size_t n_joint;          /* facts in it */
    size_t peak_bytes;       /* of device memory, as far as ticks show */
    _Atomic int stage;       /* enum mal_stage of the last tick */
    int n_failed;

    struct reading *reading;      /* each tick waits for its reads; NULL: for none */
    const char *beside;           /* what else runs, in words; NULL: nothing */
    double last_tick;             /* when it ended */
    double longest[MAL_N_STAGES]; /* seconds from tick to tick, by the second's stage */
    double edit_seconds;          /* of the last edit */
};

/* How an edit solves: added to the live weights in one pass, in a system of its own, or
 * in that of all facts. */
enum edit_form { EDIT_ONCE, EDIT_ALONE, EDIT_JOINT };

/* Ticks as the product has them; the peak of the memory and the longest time between two
 * ticks begin anew. */
struct mal_progress edit_progress(struct edit_bench *e);

/* least (MAL_N_STAGES): the seconds that each stage takes at least on this device, 0
 * where that is the host's work. */
void edit_floors(const struct edit_bench *e, enum edit_form form,
                 const struct mal_edit_report *report, double *least);

/* Waits until the reads that have been asked for by now are answered, as the daemon does
 * at each tick (mal_worker_share()). */
void settle_reads(struct reading *reading);

/* teach(e, "alone", n) without reads; reads beside nothing; reads beside that, first
 * without waiting for them. */
void run_reads(struct edit_bench *e, size_t n,
               void (*teach)(struct edit_bench *e, const char *name, size_t n),
               void (*report_error)(struct edit_bench *e, const char *name, size_t n,
                                    const struct mal_error *err));
/* With its own editor and edit modules: afterwards all is as at the beginning, the base
 * live and no other version there; e->ws NULL: that failed. */
void run_memit(struct edit_bench *e, size_t n,
               void (*report_error)(struct edit_bench *e, const char *name, size_t n,
                                    const struct mal_error *err));
void run_train(struct edit_bench *e, size_t n,
               void (*report_error)(struct edit_bench *e, const char *name, size_t n,
                                    const struct mal_error *err));

#endif
