/* hyper.h - the numbers a method that is not keyed works by: in its editor file as the
 * JSON object `hyper`. */
#ifndef MAL_HYPER_H
#define MAL_HYPER_H

#include <stdbool.h>
#include <stddef.h>

#include "core/error.h"

struct mal_hyper {
    const char *name;
    double min, max; /* allowed */
    bool whole;      /* a whole number */
};

/* Members of the object `text` into values (n), those of `fields`; an unknown one, one
 * out of range and, where `all` are asked for, a missing one is `status` naming it,
 * `where` being what the text is. Members that are not there leave their values alone. */
bool mal_hyper_read(const struct mal_hyper *fields, size_t n, const char *text, bool all,
                    double *values, enum mal_status status, const char *where,
                    struct mal_error *err) MAL_CHECK;
/* The object, from mal_malloc; NULL: memory is out. */
char *mal_hyper_dump(const struct mal_hyper *fields, size_t n, const double *values);

#endif
