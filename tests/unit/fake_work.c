/* fake_work.c - a worker that does not come by, and a table that fits whatever it is
 * asked with. */
#include "fake_work.h"

#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "daemon/engine/engine_check.h"

void fake_stuck(const char *prompt) {
    while (!strncmp(prompt, "stuck: ", 7) && access(prompt + 7, F_OK))
        poll(NULL, 0, 2);
}

void fake_slow(const char *prompt) {
    if (!strncmp(prompt, "slow: ", 6)) poll(NULL, 0, atoi(prompt + 6));
}

void mal_engine_check(struct mal_engine_check *check) {}
