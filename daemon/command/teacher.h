/* teacher.h - teaches facts to a workbench's model batch by batch, without a database:
 * what the commands edit and eval do. */
#ifndef MAL_TEACHER_H
#define MAL_TEACHER_H

#include "core/editor/repair.h"
#include "daemon/command/workbench.h"

struct mal_teacher_options {
    bool joint;         /* all facts so far in one system; else each batch by itself */
    int64_t max_rounds; /* of repair, where the method solves */
    double tau;
    const struct mal_resume *resume; /* as in struct mal_edit_task */
};

struct mal_teacher;

/* `wb` has its editor bound, its preservation measured, and is at its base. */
bool mal_teacher_create(struct mal_teacher **out, struct mal_workbench *wb,
                        const struct mal_teacher_options *options,
                        struct mal_error *err) MAL_CHECK;
void mal_teacher_destroy(struct mal_teacher *teacher); /* takes NULL */

/* What a batch came to. */
struct mal_taught {
    struct mal_edit_report report;
    int64_t n_rounds;
};

/* The weights with these facts become the live version of wb->ws, and are in use. On an
 * error the teacher is only to be destroyed. */
bool mal_teacher_teach(struct mal_teacher *teacher, const struct mal_fact *facts,
                       size_t n_facts, const struct mal_progress *progress,
                       struct mal_taught *out, struct mal_error *err) MAL_CHECK;

/* Back to the base: nothing has been taught. */
bool mal_teacher_reset(struct mal_teacher *teacher, struct mal_error *err) MAL_CHECK;

#endif
