/* method.c - the methods by name. */
#include "core/editor/method.h"

#include <string.h>

#define ADDRESS(id, text) &mal_method_##id,
static const struct mal_method *const methods[] = {MAL_METHODS(ADDRESS)};

const struct mal_method *mal_method_find(const char *name) {
    for (size_t i = 0; i < sizeof methods / sizeof *methods; i++) {
        if (strcmp(name, methods[i]->name) == 0) return methods[i];
    }
    return NULL;
}
