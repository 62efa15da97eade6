/* modules.h - the edit modules a command line names. */
#ifndef MAL_MODULES_H
#define MAL_MODULES_H

#include "core/editor/method.h"
#include "core/model/model.h"

struct mal_module_names {
    char *text;         /* owned, commas replaced by zeros; NULL: the model's own names */
    const char **names; /* owned array */
    size_t n;
};

/* Whether a list names any; none of them need be there. */
bool mal_module_names_check(const char *list, struct mal_error *err) MAL_CHECK;
/* "a,b": those; NULL: the method's choice for the model. */
bool mal_module_names_choose(struct mal_module_names *out, const char *list,
                             const struct mal_model *model,
                             const struct mal_method *method,
                             struct mal_error *err) MAL_CHECK;
void mal_module_names_finish(struct mal_module_names *names); /* takes a zeroed one */

#endif
