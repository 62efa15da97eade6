/* config_check.h - `malmend serve --check-config`: what can be said of a configuration
 * without accepting a connection and without opening the database for writing. */
#ifndef MAL_CONFIG_CHECK_H
#define MAL_CONFIG_CHECK_H

#include <jansson.h>

#include "daemon/serve.h"

struct mal_config_check {
    const struct mal_serve_options *serve;
    json_t *options; /* every option's value, and where each is from; borrowed */
    json_t *origins;
    bool json; /* one object on stdout, instead of lines */
};

/* Prints what the daemon would run with, and every fault that is found, not only the
 * first. Returns the exit code: 0 it would start, as far as can be told; 1 it would not.
 */
int mal_config_check(const struct mal_config_check *check);

#endif
