/* role.c - the words for roles. */
#include "daemon/http/role.h"

#include <string.h>

static const char *const names[] = {
    [MAL_ROLE_UNSAID] = "unsaid", [MAL_ROLE_NONE] = "none", [MAL_ROLE_READ] = "read",
    [MAL_ROLE_INFER] = "infer",   [MAL_ROLE_EDIT] = "edit", [MAL_ROLE_ADMIN] = "admin",
};

bool mal_role_allows(enum mal_role has, enum mal_role needed) {
    return needed != MAL_ROLE_UNSAID && has >= needed;
}

const char *mal_role_name(enum mal_role role) {
    return names[role];
}

bool mal_role_from_name(const char *name, enum mal_role *out) {
    for (int i = MAL_ROLE_READ; i <= MAL_ROLE_ADMIN; i++) {
        if (strcmp(names[i], name) != 0) continue;
        *out = (enum mal_role)i;
        return true;
    }
    return false;
}
