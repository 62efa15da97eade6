/* norms.c - the statistics of all shapes of an editor together: what UltraEdit carries
 * from version to version. */
#include "core/alloc.h"
#include "core/editor/editor.h"

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
