/* cmd_facts.c - malmend facts: facts of any form as POST /v1/edits takes them. */
#include <stdio.h>

#include "core/alloc.h"
#include "core/facts.h"
#include "core/file.h"
#include "daemon/base/check.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "proto/wire.h"

struct values {
    char *file;
    int64_t skip, limit;
    bool keep_first, json;
};

static const struct mal_option options[] = {
    {"file", MAL_OPTION_TEXT, offsetof(struct values, file), "FILE", NULL,
     "JSON or NDJSON of the API's facts, zsRE, FEVER or CounterFact, or lines of a prompt, "
     "a tab character and a target; a pipe, too (/dev/stdin).",
     .required = true, .positional = true},
    {"skip", MAL_OPTION_INT, offsetof(struct values, skip), "N", "0",
     "Pass over so many facts first.", .min = 0, .max = INT32_MAX},
    {"limit", MAL_OPTION_INT, offsetof(struct values, limit), "N", NULL,
     "Print so many facts at most; without it all.", .min = 1, .max = INT32_MAX},
    {"keep-first", MAL_OPTION_FLAG, offsetof(struct values, keep_first), NULL, NULL,
     "Leave out facts that have the prompt of an earlier one and another target, and say "
     "how many; without it they are an error."},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "One object, {\"facts\": [...]}, in place of a fact a line; errors as JSON, too."},
    {0},
};

static const struct mal_option_set set = {
    "facts",
    "Prints the facts of a file, a data set's too, as 'malmend-post-facts -' and POST "
    "/v1/edits take them: a fact a line (application/x-ndjson). What the daemon would "
    "refuse in one request is refused, and then nothing is printed; whether a text is too "
    "long for the model only the daemon knows.",
    options, false};

/* Leaves out what was not asked for. */
static bool choose(const struct values *v, struct mal_fact *facts, size_t n,
                   size_t *out_n, struct mal_error *err) {
    size_t first = (size_t)v->skip;
    if (first >= n) {
        return mal_fail(err, MAL_INVALID, "%s: %zu facts, --skip passes over all of them",
                        mal_file_shown(v->file), n);
    }
    bool limited = v->limit != MAL_OPTION_UNSET && (size_t)v->limit < n - first;
    *out_n = limited ? (size_t)v->limit : n - first;
    for (size_t i = 0; i < n; i++) {
        if (i < first || i >= first + *out_n) mal_fact_finish(&facts[i]);
    }
    return true;
}

/* Facts of one request together. */
static bool check_agree(const struct values *v, struct mal_fact *facts, size_t n,
                        size_t n_chosen, struct mal_error *err) {
    size_t others = 0;
    if (!(v->keep_first ? mal_facts_keep_first(facts, n, &others, err)
                        : mal_facts_contradicting(facts, n, &others, err)))
        return false;
    bool ok = mal_facts_agree(facts, n, 0, err);
    if (ok && others > 0)
        fprintf(stderr,
                "malmend: %s: %zu of %zu facts left out: they have the prompt of an "
                "earlier one and another target\n",
                mal_file_shown(v->file), others, n_chosen);
    if (ok || v->keep_first || others == 0) return ok;
    return mal_fail_wrap(err,
                         "%zu of %zu facts contradict an earlier one, --keep-first "
                         "leaves them out",
                         others, n_chosen);
}

static bool check(const struct values *v, struct mal_fact *facts, size_t n,
                  size_t n_chosen, struct mal_error *err) {
    return mal_check_facts_form(v->file, facts, n, err) &&
           ((mal_facts_check(facts, n, err) && check_agree(v, facts, n, n_chosen, err)) ||
            mal_fail_wrap(err, "%s", mal_file_shown(v->file)));
}

/* main() looks at the stream. */
static bool print(const struct values *v, const struct mal_fact *facts, size_t n,
                  struct mal_error *err) {
    const char *before = v->json ? "{\"facts\":[" : "";
    for (size_t i = 0; i < n; i++) {
        if (!facts[i].prompt) continue;
        char *text = mal_encode_fact(&facts[i]);
        if (!text) return mal_fail(err, MAL_NO_MEMORY, "/facts/%zu", i);
        printf("%s%s", before, text);
        mal_free(text);
        before = v->json ? "," : "\n";
    }
    puts(v->json ? "]}" : "");
    return true;
}

static bool run(const struct values *v, struct mal_error *err) {
    struct mal_fact *facts = NULL;
    size_t n = 0, n_chosen = 0, passed = 0;
    bool ok = mal_facts_load_counting(&facts, &n, &passed, v->file, err) &&
              choose(v, facts, n, &n_chosen, err) && check(v, facts, n, n_chosen, err) &&
              print(v, facts, n, err);
    if (ok && passed > 0)
        fprintf(stderr,
                "malmend: %s: %zu of %zu records left out: there is nothing to teach in "
                "them\n",
                mal_file_shown(v->file), passed, n + passed);
    mal_facts_free(facts, n);
    return ok;
}

int mal_cmd_facts(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    if (mal_options_parse(&set, argc, argv, &v, &code)) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
