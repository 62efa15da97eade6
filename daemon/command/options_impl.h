/* options_impl.h - what the files of the option parser share. */
#ifndef MAL_OPTIONS_IMPL_H
#define MAL_OPTIONS_IMPL_H

#include "daemon/command/options.h"

/* What was said about an option, and where, before it is made a value. */
struct mal_given {
    char *text;       /* owned; NULL: nothing yet */
    bool refused;     /* something that is no such text, and that was told */
    char source[320]; /* "--max-queue", "MALMEND_MAX_QUEUE", "FILE: max_queue" */
};

/* Prints "malmend serve: ..." to stderr; returns false. Where to read on is told in the
 * end: all that is wrong is told before. */
bool mal_options_refuse(const struct mal_option_set *set, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* The same where that is not the user's fault; mal_options_parse() then exits with 1. */
bool mal_options_no_memory(const struct mal_option_set *set);

size_t mal_options_count(const struct mal_option_set *set);

/* Fill what is still empty in `given`, which runs along the table. False: there is no use
 * in looking further; of a file's members each that is wrong is only marked and told. */
bool mal_options_from_environment(const struct mal_option_set *set,
                                  struct mal_given *given);
bool mal_options_from_file(const struct mal_option_set *set, const char *path,
                           struct mal_given *given);

/* One value from its text; a message that names the source where that does not work. */
bool mal_option_set_value(const struct mal_option_set *set,
                          const struct mal_option *option, const char *text,
                          const char *source, void *values);
/* The value of an option nothing was said about. */
void mal_option_clear_value(const struct mal_option *option, void *values);

void mal_options_print_help(const struct mal_option_set *set);
/* The same for programs. False: out of memory. */
bool mal_options_print_json(const struct mal_option_set *set);

/* "max-queue" becomes "MALMEND_MAX_QUEUE", or "max_queue". */
void mal_option_spell(const char *name, const char *prefix, bool upper, char *out,
                      size_t size);
/* Where the values are from (mal_options_parse_origins()). NULL: out of memory. */
json_t *mal_options_origins(const struct mal_option_set *set,
                            const struct mal_given *given);

#endif
