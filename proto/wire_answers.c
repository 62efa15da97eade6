/* wire_answers.c - what all answers share: problems (RFC 9457) and times (RFC 3339). */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "core/json.h"
#include "proto/wire_impl.h"

static const char *status_name(enum mal_status status) {
    static const char *const names[] = {
#define STATUS_NAME(name, http, title) #name,
        MAL_STATUS_MAP(STATUS_NAME)
#undef STATUS_NAME
    };
    return names[status];
}

static const char *http_phrase(int http_status) {
    static const struct {
        int status;
        const char *phrase;
    } phrases[] = {
        {400, "Bad Request"},
        {401, "Unauthorized"},
        {403, "Forbidden"},
        {404, "Not Found"},
        {405, "Method Not Allowed"},
        {406, "Not Acceptable"},
        {408, "Request Timeout"},
        {409, "Conflict"},
        {411, "Length Required"},
        {413, "Content Too Large"},
        {414, "URI Too Long"},
        {415, "Unsupported Media Type"},
        {416, "Range Not Satisfiable"},
        {422, "Unprocessable Content"},
        {429, "Too Many Requests"},
        {431, "Request Header Fields Too Large"},
        {500, "Internal Server Error"},
        {501, "Not Implemented"},
        {503, "Service Unavailable"},
        {507, "Insufficient Storage"},
    };

    for (size_t i = 0; i < sizeof phrases / sizeof *phrases; i++) {
        if (phrases[i].status == http_status) return phrases[i].phrase;
    }
    return "Error";
}

/* "NO_MEMORY" becomes "urn:malmend:problem:no-memory". */
static void problem_type(enum mal_status status, char out[64]) {
    snprintf(out, 64, "urn:malmend:problem:%s", status_name(status));
    for (char *p = out + strlen("urn:malmend:problem:"); *p; p++) {
        *p = *p == '_' ? '-' : (char)tolower((unsigned char)*p);
    }
}

/* Where the HTTP status says more than ours (405, 415, ...), the problem has no type of
 * its own and the title of the HTTP status, as RFC 9457 wants it for about:blank. */
char *mal_encode_problem(const struct mal_error *err, int http_status) {
    char type[64] = "about:blank";
    (void)mal_json_lacked(); /* that is what is reported here */
    const char *title = http_phrase(http_status);
    if (err->status != MAL_OK && mal_status_http(err->status) == http_status) {
        problem_type(err->status, type);
        title = mal_status_title(err->status);
    }
    json_t *problem = json_pack("{s:s,s:s,s:i,s:o}", "type", type, "title", title,
                                "status", http_status, "detail", mal_json_fit(err->text));
    /* What fails here is not the fault of a field. */
    if (problem && err->pointer[0] && http_status < 500) {
        json_t *errors = json_pack("[{s:o,s:o}]", "pointer", mal_json_fit(err->pointer),
                                   "detail", mal_json_fit(err->text));
        if (json_object_set_new(problem, "errors", errors) != 0) {
            json_decref(problem);
            problem = NULL;
        }
    }
    char *text = mal_wire_dump(problem);
    json_decref(problem);
    return text;
}

void mal_format_time(int64_t ms, char out[32]) {
    int64_t rest = ms % 1000;
    if (rest < 0) rest += 1000;
    time_t seconds = (time_t)((ms - rest) / 1000);
    struct tm utc;
    char date[24];
    if (!gmtime_r(&seconds, &utc) ||
        !strftime(date, sizeof date, "%Y-%m-%dT%H:%M:%S", &utc)) {
        memcpy(out, "9999-12-31T23:59:59.999Z", 25);
        return;
    }
    snprintf(out, 32, "%s.%03dZ", date, (int)rest);
}
