/* cmd_tokenize.c - malmend tokenize: lines of text to token ids, or back. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "core/alloc.h"
#include "core/file.h"
#include "core/json.h"
#include "core/text.h"
#include "core/tokenizer/tokenizer.h"
#include "daemon/base/report.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "daemon/command/token_ids.h"

struct values {
    char *model;
    bool decode, no_special, json;
};

static const struct mal_option options[] = {
    {"model", MAL_OPTION_TEXT, offsetof(struct values, model), "DIR", NULL,
     "Model directory as on the Hugging Face hub, of which only the tokenizer is read; or "
     "a tokenizer's file.",
     .required = true},
    {"decode", MAL_OPTION_FLAG, offsetof(struct values, decode), NULL, NULL,
     "From ids to text."},
    {"no-special", MAL_OPTION_FLAG, offsetof(struct values, no_special), NULL, NULL,
     "Leave out the tokens that begin or end a text; with --decode, all special tokens."},
    {"json", MAL_OPTION_FLAG, offsetof(struct values, json), NULL, NULL,
     "Each line is a JSON string or an array of ids, so that any text fits."},
    {0},
};

static const struct mal_option_set set = {
    "tokenize",
    "Turns each line of standard input into token ids separated by blanks, or back.",
    options, false};

/* ---- Reading a line ---- */

static bool parse_json(const char *line, size_t bytes, json_t **out,
                       struct mal_error *err) {
    json_error_t problem = {0};
    char shown[MAL_TEXT_SHOWN];
    *out = mal_json_parse(line, bytes, JSON_DECODE_ANY | JSON_ALLOW_NUL, &problem);
    if (*out) return true;
    return mal_fail(err, MAL_INVALID, "not JSON: %s",
                    mal_text_shown(shown, problem.text));
}

static bool read_json_ids(const char *line, size_t bytes, struct mal_ids *out,
                          struct mal_error *err) {
    json_t *array, *id;
    size_t i;
    if (!parse_json(line, bytes, &array, err)) return false;
    bool ok = json_is_array(array) || mal_fail(err, MAL_INVALID, "not an array of ids");
    json_array_foreach (array, i, id) {
        if (ok && !json_is_integer(id))
            ok = mal_fail(err, MAL_INVALID, "element %zu is not an integer", i);
        ok = ok && mal_token_ids_push(out, json_integer_value(id), err);
    }
    json_decref(array);
    return ok;
}

/* ---- Working on a line ---- */

static void print_ids(const struct mal_ids *ids, bool json) {
    if (json) putchar('[');
    for (size_t i = 0; i < ids->n; i++)
        printf("%s%" PRId32, i == 0 ? "" : json ? "," : " ", ids->ids[i]);
    puts(json ? "]" : "");
}

static bool encode_line(const struct mal_tokenizer *tok, const struct values *v,
                        const char *line, size_t bytes, struct mal_error *err) {
    json_t *string = NULL;
    if (v->json) {
        if (!parse_json(line, bytes, &string, err)) return false;
        if (!json_is_string(string)) {
            json_decref(string);
            return mal_fail(err, MAL_INVALID, "not a string");
        }
        line = json_string_value(string);
        bytes = json_string_length(string);
    }
    struct mal_ids ids = {0};
    bool ok = mal_tokenizer_encode(tok, line, bytes, !v->no_special, &ids, err);
    if (ok) print_ids(&ids, v->json);
    mal_ids_finish(&ids);
    json_decref(string);
    return ok;
}

static bool print_text(const char *text, size_t bytes, bool json, struct mal_error *err) {
    if (json) {
        json_t *string = json_stringn(text, bytes);
        int rc = string ? json_dumpf(string, stdout, JSON_ENCODE_ANY) : -1;
        json_decref(string);
        if (rc != 0) return mal_fail(err, MAL_IO, "cannot write the text");
    } else {
        (void)fwrite(text, 1, bytes, stdout); /* main() looks at the stream */
    }
    putchar('\n');
    return true;
}

static bool decode_line(const struct mal_tokenizer *tok, const struct values *v,
                        const char *line, size_t bytes, struct mal_error *err) {
    struct mal_ids ids = {0};
    char *text = NULL;
    size_t text_bytes;
    bool ok = (v->json ? read_json_ids(line, bytes, &ids, err)
                       : mal_token_ids_parse(&ids, line, bytes, err)) &&
              mal_tokenizer_decode(tok, ids.ids, ids.n, v->no_special, false, &text,
                                   &text_bytes, err) &&
              print_text(text, text_bytes, v->json, err);
    mal_free(text);
    mal_ids_finish(&ids);
    return ok;
}

static bool open_tokenizer(struct mal_tokenizer **out, const char *path,
                           struct mal_error *err) {
    struct stat info;
    if (stat(path, &info) != 0) {
        return mal_fail(err, MAL_NOT_FOUND, "%s: %s", mal_file_shown(path),
                        strerror(errno));
    }
    return S_ISREG(info.st_mode) ? mal_tokenizer_open_file(out, path, err)
                                 : mal_tokenizer_open(out, path, err);
}

static bool run(const struct values *v, struct mal_error *err) {
    struct mal_tokenizer *tok;
    if (!open_tokenizer(&tok, v->model, err)) return false;
    char *line = NULL;
    size_t capacity = 0, i_line = 0;
    bool ok = true;
    for (ssize_t n; ok && (n = getline(&line, &capacity, stdin)) >= 0;) {
        size_t bytes = (size_t)n;
        i_line++;
        if (bytes > 0 && line[bytes - 1] == '\n') line[--bytes] = 0;
        ok = (v->decode ? decode_line : encode_line)(tok, v, line, bytes, err) ||
             mal_fail_wrap(err, "line %zu", i_line);
    }
    if (ok && !feof(stdin))
        ok = mal_fail(err, MAL_IO, "standard input: %s", strerror(errno));
    free(line);
    mal_tokenizer_close(tok);
    return ok;
}

int mal_cmd_tokenize(int argc, char **argv) {
    struct values v = {0};
    struct mal_error err = {0};
    int code;
    if (mal_options_parse(&set, argc, argv, &v, &code)) {
        code = run(&v, &err) ? 0 : mal_report_error(&err, v.json);
    }
    mal_options_finish(&set, &v);
    return code;
}
