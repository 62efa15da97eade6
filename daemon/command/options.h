/* options.h - the options of a command, declared once as a table.
 *
 * A table gives parsing (`--name value`, `--name=value`), `--help` with every default,
 * `--help=json` (the table itself, for manual page, completion and tests) and, for
 * commands that ask for it, the same options from MALMEND_<NAME> in the environment and
 * from a JSON file (`--config FILE`, names with underscores). Command line before
 * environment before file before default. An empty environment variable counts as absent.
 */
#ifndef MAL_OPTIONS_H
#define MAL_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "core/error.h"

/* What an option's field is, and what it holds where there is neither value nor default.
 */
enum mal_option_kind {
    MAL_OPTION_TEXT,   /* char *, owned; NULL */
    MAL_OPTION_CHOICE, /* char *, owned, one of the words of metavar ("a|b|c"); NULL */
    MAL_OPTION_INT,    /* int64_t; MAL_OPTION_UNSET */
    MAL_OPTION_REAL,   /* double, finite; NaN */
    MAL_OPTION_FLAG,   /* bool: `--name`, `--name=false`; false */
    MAL_OPTION_BYTES,  /* int64_t: 1048576, 16MiB, 16M (powers of 1024); MAL_OPTION_UNSET
                        */
    MAL_OPTION_DURATION, /* double, seconds: 30, 1.5, 250ms, 5m, 2h, 7d; NaN */
};

#define MAL_OPTION_UNSET INT64_MIN

struct mal_option {
    const char *name; /* "max-queue" */
    enum mal_option_kind kind;
    size_t offset;        /* of the field in the command's struct */
    const char *metavar;  /* "FACTS"; not used by flags */
    const char *fallback; /* the default as text, or NULL */
    const char *help;     /* one or more sentences; the default is added */
    double min, max;      /* of numbers, inclusive; both 0: any, INFINITY: no upper end */
    bool required;
    bool positional;   /* given without `--name`, in the order of the table */
    bool here_only;    /* not from the environment or a file: what is done, not how */
    bool may_be_empty; /* of texts: without it an empty one is refused */
    /* Of a text: whether it is one of those the option takes; an error says which. NULL:
     * any. What it names need not be there. */
    bool (*check)(const char *text, struct mal_error *err);
};

struct mal_option_set {
    const char *command; /* "serve" */
    const char *about;   /* what the command does, paragraphs apart by "\n\n" */
    const struct mal_option *options; /* up to one whose name is NULL */
    bool configurable;                /* also from --config and the environment */
};

/* Fills `values` (the command's struct, zeroed) from argv, where argv[0] is the command's
 * name. False: the command returns *out_exit, after `--help` was printed (0) or a message
 * for each thing that is wrong (2). Either way `values` is to be finished by
 * mal_options_finish(). */
bool mal_options_parse(const struct mal_option_set *set, int argc, char **argv,
                       void *values, int *out_exit);
/* As mal_options_parse(), but texts are not held against their `check`; *out_origins, on
 * success only and owned by the caller: for each option, its name with underscores, where
 * its value is from ("--max-queue", "MALMEND_MAX_QUEUE", "FILE: 'max_queue'", "default";
 * null: it has none). */
bool mal_options_parse_origins(const struct mal_option_set *set, int argc, char **argv,
                               void *values, json_t **out_origins, int *out_exit);
/* What mal_options_parse_origins() leaves: false as mal_options_parse(). */
bool mal_options_check(const struct mal_option_set *set, const void *values,
                       const json_t *origins, int *out_exit);
/* Of options that do not go together: prints the error as those above and returns
 * the exit code. */
int mal_options_misused(const struct mal_option_set *set, const struct mal_error *err);
/* The values as a configuration file has them, null where there is none; without those of
 * here_only. NULL: out of memory. */
json_t *mal_options_to_json(const struct mal_option_set *set, const void *values);
/* Frees the texts; takes a zeroed `values`. */
void mal_options_finish(const struct mal_option_set *set, void *values);

/* The word of `words` nearest to `word`, or NULL when none is near: for "did you mean".
 */
const char *mal_nearest_word(const char *word, const char *const *words, size_t n);

#endif
