/* change_impl.h - what the files that make changes share. */
#ifndef MAL_CHANGE_IMPL_H
#define MAL_CHANGE_IMPL_H

#include <jansson.h>

#include "core/editor/repair.h"
#include "daemon/engine/engine_impl.h"
#include "daemon/engine/fact_set.h"
#include "daemon/engine/history.h"

/* ---- The row and the results (change.c, change_measure.c) ---- */

/* A change of the given kind that follows the live version. */
void mal_change_begin(struct mal_engine *engine, enum mal_version_kind kind,
                      int64_t now_ms, struct mal_change *out);
/* Fills the row of the prepared (or, for version 0, the base) weights; strings owned. */
bool mal_change_fill_row(struct mal_engine *engine, struct mal_store *store,
                         bool prepared, struct mal_change *change,
                         struct mal_error *err) MAL_CHECK;
/* Running statistics, to be gone on with, or as the editor's file has them; others
 * need none. */
bool mal_change_copy_norms(struct mal_engine *engine, struct mal_change *change,
                           struct mal_error *err) MAL_CHECK;
bool mal_change_new_norms(struct mal_engine *engine, struct mal_change *change,
                          struct mal_error *err) MAL_CHECK;
/* Hands the change out, with live weights in use; or, where not `ok`, forgets it. */
bool mal_change_end(struct mal_engine *engine, bool ok, struct mal_change *change,
                    struct mal_change *out);
/* mal_weights_seal(), with its time. */
bool mal_change_seal(struct mal_engine *engine, const struct mal_progress *progress,
                     struct mal_change *change, struct mal_error *err) MAL_CHECK;
void mal_change_tick(void *arg); /* a struct mal_progress: MAL_STAGE_APPLY */

/* A tick of the verifying stage, for functions that know no progress. */
struct mal_verify_tick {
    const struct mal_progress *progress;
    int64_t done;
};

bool mal_verify_tick(void *arg);

/* Room for the results of so many facts, then one after the other: the score of a fact's
 * prompt, and whether all its texts are right by the margin, < 0: not known. */
bool mal_change_room(struct mal_change *change, size_t n,
                     struct mal_error *err) MAL_CHECK;
bool mal_change_add_result(struct mal_change *change, const char *id,
                           const struct mal_score *score, int certain, int32_t rounds,
                           struct mal_error *err) MAL_CHECK;

/* A result that is no change's; strings owned, also after a failure. */
bool mal_fact_result_make(struct mal_fact_result *out, const char *id,
                          const struct mal_score *score, int certain, int32_t rounds,
                          struct mal_error *err) MAL_CHECK;

/* Values of `n` more facts, zeroed, to be filled; NULL: out of memory. */
struct mal_history_value *mal_change_add_values(struct mal_change *change, size_t n,
                                                struct mal_error *err) MAL_CHECK;
/* Its delta is what it will be: the stager, if there is one, may begin with it, once. */
void mal_change_give_delta(struct mal_change *change);

/* ---- A change of the joint system (change_joint.c) ---- */

struct mal_joint_run {
    struct mal_engine *engine;
    struct mal_store *store;
    const struct mal_progress *progress;
    struct mal_change *change;
    bool joint; /* the live facts' system; else one of its own, on live weights */
    struct mal_joint *own; /* that one */
    struct mal_joint *system;
    int64_t *path; /* of the live version, owned */
    bool *added;   /* of each of those whether its facts were added up, owned */
    size_t n_path;
    /* Taught; live before and after, as far as they are looked at; given up. */
    struct mal_fact_set taught, others, removed;
    const int64_t *sought; /* (n_sought) seqs, ascending, to be among them; borrowed */
    size_t n_sought;
    size_t n_live; /* of which others are all, or a sample */
    struct mal_joint_change *solving;
    struct mal_repair repair;
};

/* Brings the system up to date. The rest of `run` is set: engine, store, progress,
 * change, joint. mal_joint_run_finish() also after a failure. */
bool mal_joint_run_open(struct mal_joint_run *run, struct mal_error *err) MAL_CHECK;
/* Live facts but those of run->removed, into run->others: those sought, and of all at
 * most the engine's verify_limit. */
bool mal_joint_run_look(struct mal_joint_run *run, struct mal_error *err) MAL_CHECK;
/* The facts of run->taught join the system. */
bool mal_joint_run_teach(struct mal_joint_run *run, struct mal_error *err) MAL_CHECK;
/* Those of run->removed give up their values and, unless they are pinned, leave the
 * system. */
bool mal_joint_run_remove(struct mal_joint_run *run, bool pin,
                          struct mal_error *err) MAL_CHECK;
/* Solves and repairs; what is best is tried in the weights and in use. `basis`: version
 * that the shift is added to. */
bool mal_joint_run_solve(struct mal_joint_run *run, int64_t basis,
                         struct mal_error *err) MAL_CHECK;
/* The values that have changed, and how the others' verification did, into the change. */
bool mal_joint_run_keep(struct mal_joint_run *run, struct mal_error *err) MAL_CHECK;
void mal_joint_run_finish(struct mal_joint_run *run);

#endif
