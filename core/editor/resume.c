/* resume.c - which file an edit is kept in. */
#include "core/editor/resume.h"

const struct mal_state_kind mal_resume_kind = {"malmend-edit-1", "an edit"};

bool mal_resume_run(const char *path, char **out, struct mal_error *err) {
    return mal_state_run(path, &mal_resume_kind, out, err);
}
