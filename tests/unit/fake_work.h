/* fake_work.h - what the fake engine does besides its tables. */
#ifndef FAKE_WORK_H
#define FAKE_WORK_H

#include "core/facts.h"

/* A fact with the prompt "stuck: FILE" takes one slice, until there is that file. */
void fake_stuck(const struct mal_fact *facts, size_t n);

#endif
