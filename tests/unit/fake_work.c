/* fake_work.c - a worker that does not come by, and a table that fits whatever it is
 * asked with. */
#include "fake_work.h"

#include <poll.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine_check.h"

void fake_stuck(const struct mal_fact *facts, size_t n) {
    for (size_t i = 0; i < n; i++) {
        while (!strncmp(facts[i].prompt, "stuck: ", 7) &&
               access(facts[i].prompt + 7, F_OK))
            poll(NULL, 0, 2);
    }
}

void mal_engine_check(struct mal_engine_check *check) {}
