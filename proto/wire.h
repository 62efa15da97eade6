/* wire.h - requests and answers as JSON text: what proto/openapi.yaml says, in C.
 *
 * Decoders take a body and fill a struct, or fail with a status, a sentence and a JSON
 * pointer (MAL_MALFORMED: not JSON, duplicate key, wrong type; MAL_INVALID: right type,
 * wrong meaning). Encoders return owned text, NULL when memory is out. Unknown members of
 * requests are refused by name, so that a typing error is not silence. */
#ifndef MAL_WIRE_H
#define MAL_WIRE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "core/error.h"
#include "core/facts.h"

/* ---- Requests ---- */

/* The longest note or reason. */
enum { MAL_NOTE_CHARACTERS = 4096 };

bool mal_note_fits(const char *text);

struct mal_edits_request {
    struct mal_fact *facts; /* owned; at least one */
    char **facts_json;      /* each Fact as compact JSON, owned */
    size_t n_facts;
    char *note; /* NULL */
    bool validate_only;
    char *gate_json; /* NULL: none; checked for known keys and types */
};

/* `max_facts`: more is MAL_TOO_LARGE. Checks: prompt and target not empty (after trimming
 * the seam), valid UTF-8 without NUL, `id` of the request kept only if it is unique in it
 * and matches [A-Za-z0-9_.:-]{1,64}, no two facts with the same prompt or further
 * phrasing and different targets. */
bool mal_decode_edits(const char *body, size_t bytes, size_t max_facts,
                      struct mal_edits_request *out, struct mal_error *err) MAL_CHECK;
void mal_edits_request_finish(struct mal_edits_request *request);

/* What is said of each fact of a request, for those of a file. Here and below what was
 * left out of it (it has no prompt) only counts in the positions. */
bool mal_facts_check(const struct mal_fact *facts, size_t n,
                     struct mal_error *err) MAL_CHECK;
/* What is said of the facts of one request together, for those of a file: `first` is the
 * position of facts[0] in it. */
bool mal_facts_agree(const struct mal_fact *facts, size_t n, size_t first,
                     struct mal_error *err) MAL_CHECK;
/* How many have a prompt or further phrasing of an earlier one, and another target. */
bool mal_facts_contradicting(const struct mal_fact *facts, size_t n, size_t *out,
                             struct mal_error *err) MAL_CHECK;
/* Leaves these out (mal_fact_finish()); *out: how many. */
bool mal_facts_keep_first(struct mal_fact *facts, size_t n, size_t *out,
                          struct mal_error *err) MAL_CHECK;

/* Facts as NDJSON (a fact a line, blank lines skipped), as they arrive, with the same
 * checks. What stays in memory is the line that is not whole yet and 56 bytes a fact. */
struct mal_fact_lines_options {
    size_t max_facts; /* more is MAL_TOO_LARGE */
    size_t max_line;  /* bytes; a longer one is MAL_TOO_LARGE */
    /* Gets each fact, its position and its text as stored, all borrowed. An error of its
     * own is named with the line. */
    bool (*take)(void *arg, const struct mal_fact *fact, const char *json, size_t index,
                 struct mal_error *err);
    void *arg;
};

struct mal_fact_lines;

bool mal_fact_lines_create(struct mal_fact_lines **out,
                           const struct mal_fact_lines_options *options,
                           struct mal_error *err) MAL_CHECK;
void mal_fact_lines_destroy(struct mal_fact_lines *lines); /* takes NULL */
/* After a failure only destroy() may follow. */
bool mal_fact_lines_add(struct mal_fact_lines *lines, const char *data, size_t bytes,
                        struct mal_error *err) MAL_CHECK;
/* The last line may lack its newline. Checks what only all facts together show. */
bool mal_fact_lines_end(struct mal_fact_lines *lines, struct mal_error *err) MAL_CHECK;
size_t mal_fact_lines_count(const struct mal_fact_lines *lines);

/* One Fact object as stored (mal_fact_row.fact_json) back into a struct. */
bool mal_decode_fact(const char *json, struct mal_fact *out,
                     struct mal_error *err) MAL_CHECK;
/* And a fact (whose id the daemon may have filled in) as such an object. */
char *mal_encode_fact(const struct mal_fact *fact);

struct mal_rollback_request {
    int64_t to_version;
    char *reason; /* NULL */
};

bool mal_decode_rollback(const char *body, size_t bytes, struct mal_rollback_request *out,
                         struct mal_error *err) MAL_CHECK;
void mal_rollback_request_finish(struct mal_rollback_request *request);

struct mal_retraction_request {
    char **facts; /* ids, each once; none where `job` is given */
    size_t n_facts;
    char *job;    /* NULL */
    bool drop;    /* mode "drop": the keys go too; false: "pin" */
    char *reason; /* NULL */
};

/* `max_facts`: more is MAL_TOO_LARGE. Also reads what mal_encode_retraction() wrote. */
bool mal_decode_retraction(const char *body, size_t bytes, size_t max_facts,
                           struct mal_retraction_request *out,
                           struct mal_error *err) MAL_CHECK;
void mal_retraction_request_finish(struct mal_retraction_request *request);
/* What a job keeps of it (mal_job_row.request_json): {"facts","mode"}. */
char *mal_encode_retraction(const char *const *facts, size_t n, bool drop);
/* The mode of such a text. */
bool mal_retraction_drops(const char *encoded);
/* "pin", "drop"; false: neither. */
bool mal_parse_mode(const char *mode, bool *out_drop);

/* *out_reason owned; left alone where there is none. */
bool mal_decode_consolidation(const char *body, size_t bytes, char **out_reason,
                              struct mal_error *err) MAL_CHECK;

struct mal_evaluation_request {
    int64_t version;        /* -1: the live one, whichever that is when it begins */
    struct mal_fact *facts; /* owned; none where `suite` is given */
    size_t n_facts;
    char *suite; /* NULL */
};

/* `max_facts` and what is checked of facts: as mal_decode_edits(). */
bool mal_decode_evaluation(const char *body, size_t bytes, size_t max_facts,
                           struct mal_evaluation_request *out,
                           struct mal_error *err) MAL_CHECK;
void mal_evaluation_request_finish(struct mal_evaluation_request *request);
/* What a job keeps of it (mal_job_row.request_json): a JSON array, each fact a line, so
 * that it can be read back one at a time. NULL: out of memory. */
char *mal_encode_facts(const struct mal_fact *facts, size_t n);
/* The next fact of such a text; *at, at first its beginning, moves on. *out_end: there is
 * none any more. */
bool mal_decode_next_fact(const char **at, struct mal_fact *out, bool *out_end,
                          struct mal_error *err) MAL_CHECK;

struct mal_completion_request {
    char *model;    /* "live", "base", "v3"; "live" when absent */
    char **prompts; /* `prompt`: a string or an array of strings */
    size_t n_prompts;
    int64_t max_tokens; /* 16 when absent, as OpenAI */
    double temperature; /* 0 when absent: greedy; 0..2 */
    double top_p;       /* 1 when absent; (0, 1] */
    int64_t seed;       /* 0 when absent: see has_seed */
    bool has_seed;
    char **stop; /* a string or up to 4 of them, none empty */
    size_t n_stop;
    bool echo;
    bool stream;
    bool include_usage; /* of stream_options: only where stream is true */
};

bool mal_decode_completion(const char *body, size_t bytes,
                           struct mal_completion_request *out,
                           struct mal_error *err) MAL_CHECK;
void mal_completion_request_finish(struct mal_completion_request *request);

struct mal_scores_request_item {
    char *prompt, *target; /* target NULL: none, which a classifier needs not */
    char *join;            /* NULL: one space */
};

struct mal_scores_request {
    char *model;
    struct mal_scores_request_item *items;
    size_t n_items; /* 1..1000 */
};

bool mal_decode_scores(const char *body, size_t bytes, struct mal_scores_request *out,
                       struct mal_error *err) MAL_CHECK;
void mal_scores_request_finish(struct mal_scores_request *request);

/* "live" -> -1, "base" -> 0, "v12" -> 12; false: neither. */
bool mal_parse_model(const char *model, int64_t *out_version);

/* ---- Answers ---- */

/* application/problem+json of an error (RFC 9457), with "errors" when err->pointer is
 * set. */
char *mal_encode_problem(const struct mal_error *err, int http_status);
/* RFC 3339 UTC with milliseconds. */
void mal_format_time(int64_t ms, char out[32]);

/* proto/openapi.yaml as compact JSON. */
extern const char mal_openapi_json[];

#endif
