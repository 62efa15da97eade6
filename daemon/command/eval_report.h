/* eval_report.h - what an evaluation found, as JSON, as a table, and fact by fact. */
#ifndef MAL_EVAL_REPORT_H
#define MAL_EVAL_REPORT_H

#include <jansson.h>

#include "daemon/command/eval.h"

/* How it was made; texts borrowed. */
struct mal_eval_setup {
    const struct mal_editor *editor;
    const struct mal_preserve *preserve; /* NULL: nothing was preserved */
    const char *model;                   /* its name */
};

/* {"before","after","batches","retention"?,"editor","preserve"?,"update","reset",
 * "n_edits","model"}; NULL: out of memory. */
json_t *mal_eval_json(const struct mal_eval *eval, const struct mal_eval_plan *plan,
                      const struct mal_eval_setup *setup);

/* The same in short, on stdout. */
void mal_eval_print(const struct mal_eval *eval, const struct mal_eval_plan *plan,
                    const struct mal_eval_setup *setup);

/* One JSON object a line for each fact, the whole file or none of it. */
bool mal_eval_write_facts(const struct mal_eval *eval, const struct mal_eval_plan *plan,
                          const char *path, struct mal_error *err) MAL_CHECK;

/* A JSON document and a newline into a file, whole or not at all. NULL: out of memory. */
bool mal_eval_write_json(const json_t *report, const char *path,
                         struct mal_error *err) MAL_CHECK;

#endif
