/* role.h - what a caller may do, ascending: each role may what those below it may. */
#ifndef MAL_ROLE_H
#define MAL_ROLE_H

#include <stdbool.h>

enum mal_role {
    MAL_ROLE_UNSAID, /* of a route that names none: nobody may */
    MAL_ROLE_NONE,   /* of a route: everybody may; of a caller: nothing more */
    MAL_ROLE_READ,
    MAL_ROLE_INFER,
    MAL_ROLE_EDIT,
    MAL_ROLE_ADMIN
};

/* Whether who has one role may do what needs another. */
bool mal_role_allows(enum mal_role has, enum mal_role needed);

const char *mal_role_name(enum mal_role role);
/* Only what a token can have, from "read" to "admin"; false: no such role. */
bool mal_role_from_name(const char *name, enum mal_role *out);

#endif
