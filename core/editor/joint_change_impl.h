/* joint_change_impl.h - the inside of a change, for the files that make one. */
#ifndef MAL_JOINT_CHANGE_IMPL_H
#define MAL_JOINT_CHANGE_IMPL_H

#include "core/editor/joint_change.h"
#include "core/editor/joint_impl.h"

/* Texts that were measured in one go. */
struct mal_joint_group {
    struct mal_joint_group *next;
    struct mal_edit_rows rows; /* u; g is gone once r is there */
    double **r;                /* per module (rows, d_out), device, owned */
    struct mal_joined *joined; /* per module: u in the factor; owned */
    float *values;             /* of its texts one after another, owned; or NULL */
};

struct mal_joint_text {
    struct mal_example example; /* its arrays borrowed */
    const struct mal_joint_group *group;
    size_t index;  /* in its group */
    float *values; /* in its group's; NULL: removed */
};

struct mal_joint_change {
    struct mal_joint *joint;
    const struct mal_weights_state *shifts;
    const struct mal_progress *progress;
    struct mal_edit_report *report;
    struct mal_trunk *trunk; /* of all texts, owned */
    struct mal_joint_group *groups, **last;
    struct mal_joint_group *taught; /* whose keys are not in the system yet; or NULL */
    struct mal_joint_text *texts;
    size_t n_texts;
    struct mal_arena scratch;
};

#endif
