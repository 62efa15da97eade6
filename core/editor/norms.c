/* norms.c - the statistics of all shapes of an editor together: what an editor cannot do
 * without, and UltraEdit carries from version to version. */
#include "core/alloc.h"
#include "core/editor/editor.h"

/* All are 0 before the second row. */
static bool has_deviations(const struct mal_normalizer *norm) {
    for (int64_t i = 0; i < norm->size; i++) {
        if (norm->std[i] > 0) return true;
    }
    return false;
}

bool mal_editor_check_statistics(const struct mal_editor *editor, struct mal_error *err) {
    for (size_t s = 0; s < editor->n_shapes && !editor->method->running; s++) {
        if (has_deviations(&editor->shapes[s].norm)) continue;
        return mal_fail(err, MAL_INVALID,
                        "the editor has no statistics: train it, or make it with "
                        "init-editor --data");
    }
    return true;
}

struct mal_normalizer *mal_norms_copy(const struct mal_normalizer *norms, size_t n,
                                      struct mal_error *err) {
    struct mal_normalizer *copy = mal_calloc(n, sizeof *copy);
    if (!copy) {
        mal_fail(err, MAL_NO_MEMORY, "statistics");
        return NULL;
    }
    for (size_t s = 0; s < n; s++) {
        if (!mal_normalizer_copy(&copy[s], &norms[s], err)) {
            mal_norms_free(copy, n);
            return NULL;
        }
    }
    return copy;
}

struct mal_normalizer *mal_editor_norms(const struct mal_editor *editor,
                                        struct mal_error *err) {
    struct mal_normalizer *norms = mal_calloc(editor->n_shapes, sizeof *norms);
    if (!norms) {
        mal_fail(err, MAL_NO_MEMORY, "statistics");
        return NULL;
    }
    for (size_t s = 0; s < editor->n_shapes; s++) {
        if (!mal_normalizer_copy(&norms[s], &editor->shapes[s].norm, err)) {
            mal_norms_free(norms, editor->n_shapes);
            return NULL;
        }
    }
    return norms;
}

void mal_norms_free(struct mal_normalizer *norms, size_t n) {
    if (!norms) return;
    for (size_t s = 0; s < n; s++)
        mal_normalizer_finish(&norms[s]);
    mal_free(norms);
}
