/* workbench_editor.c - an editor where none was given, one that is asked too much, and
 * facts that ask too much of any. */
#include <stdio.h>

#include "core/file.h"
#include "daemon/base/check.h"
#include "daemon/base/report.h"
#include "daemon/command/workbench.h"

static bool tick(void *arg, enum mal_stage stage, int64_t done, int64_t total) {
    (void)stage, (void)total;
    mal_bar_update(arg, done);
    return true;
}

bool mal_workbench_make_editor(struct mal_workbench *wb, const char *data,
                               const struct mal_fact *facts, size_t n, bool json,
                               struct mal_instant_report *report, struct mal_error *err) {
    struct mal_fact *own = NULL;
    size_t n_own = 0;
    if (data && (!mal_facts_load(&own, &n_own, data, err) ||
                 !mal_check_facts_form(data, own, n_own, err))) {
        mal_facts_free(own, n_own);
        return false;
    }
    struct mal_bar bar;
    struct mal_progress progress = {tick, &bar};
    mal_bar_start(&bar, "steps tried", 0, json);
    bool ok = !own || mal_check_facts_of(data, wb->model, wb->tok, NULL, own, n_own, err);
    ok = ok && mal_model_set_default_edits(wb->model, err) &&
         mal_editor_make(&wb->editor, wb->model, wb->tok, own ? own : facts,
                         own ? n_own : n, &progress, report, err) &&
         mal_weights_create(&wb->ws, wb->model, 0, err);
    mal_bar_finish(&bar);
    mal_facts_free(own, n_own);
    if (!ok) return false;
    fprintf(stderr,
            "malmend: no editor given, one made on %zu of the facts and %zu of the "
            "model's own: %s, %zu modules, step %g\n",
            report->n_facts, report->n_made, wb->editor->method->name,
            wb->editor->n_modules, report->lr);
    return true;
}

bool mal_workbench_check_facts(const char *path, const struct mal_fact *facts, size_t n,
                               size_t batch, struct mal_error *err) {
    size_t contradicting = 0;
    if (!mal_check_facts_form(path, facts, n, err) ||
        !mal_check_facts_agree(path, facts, n, batch, &contradicting, err))
        return false;
    if (contradicting > 0)
        fprintf(stderr,
                "malmend: %s: %zu of %zu facts have the prompt of an earlier one and "
                "another target: the model can learn one of them\n",
                mal_file_shown(path), contradicting, n);
    return true;
}

void mal_workbench_warn(const struct mal_workbench *wb, size_t n) {
    int64_t most = wb->editor->n_edits;
    if (most == 0 || n <= (size_t)most) return;
    fprintf(stderr, "malmend: %zu facts, the editor was made for up to %lld at a time\n",
            n, (long long)most);
}
