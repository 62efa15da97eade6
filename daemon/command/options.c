/* options.c - reads a command line by a command's table of options. */
#include "daemon/command/options_impl.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "core/alloc.h"
#include "core/text.h"

/* Name of the option that stands for the file of a configurable command. */
static const char config_name[] = "config";

struct command_line {
    const struct mal_option_set *set;
    int argc, next;
    char **argv;
    struct mal_given *given; /* along the table */
    char *config;            /* owned */
    size_t n_positional;     /* seen so far */
    bool only_positional;    /* after `--` */
    bool help, help_json;
};

/* What was told since begin(). */
static bool refused, no_memory;

static void begin(void) {
    refused = no_memory = false;
}

/* Whether nothing was wrong; else the exit code. */
static bool end(const struct mal_option_set *set, int *out_exit) {
    if (no_memory) *out_exit = 1;
    if (no_memory || !refused) return !no_memory;
    fprintf(stderr, "See 'malmend %s --help'.\n", set->command);
    *out_exit = 2;
    return false;
}

bool mal_options_refuse(const struct mal_option_set *set, const char *format, ...) {
    char text[1024];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    fprintf(stderr, "malmend %s: %s\n", set->command, mal_text_line(text));
    refused = true;
    return false;
}

bool mal_options_no_memory(const struct mal_option_set *set) {
    fprintf(stderr, "malmend %s: options: out of memory\n", set->command);
    no_memory = true;
    return false;
}

size_t mal_options_count(const struct mal_option_set *set) {
    size_t n = 0;
    while (set->options[n].name)
        n++;
    return n;
}

static bool refuse_unknown(const struct mal_option_set *set, const char *name) {
    const char *words[128] = {"help", config_name};
    size_t n = set->configurable ? 2 : 1;
    for (size_t i = 0; set->options[i].name && n < sizeof words / sizeof *words; i++) {
        if (!set->options[i].positional) words[n++] = set->options[i].name;
    }
    const char *near = mal_nearest_word(name, words, n);
    if (!near) return mal_options_refuse(set, "there is no option --%s", name);
    return mal_options_refuse(set, "there is no option --%s; did you mean --%s?", name,
                              near);
}

static bool keep(const struct mal_option_set *set, struct mal_given *given,
                 const char *text, const char *source) {
    char *copy = mal_strdup(text);
    if (!copy) return mal_options_no_memory(set);
    mal_free(given->text);
    given->text = copy;
    snprintf(given->source, sizeof given->source, "%s", source);
    return true;
}

static bool take_positional(struct command_line *line, const char *text) {
    size_t seen = 0;
    for (size_t i = 0; line->set->options[i].name; i++) {
        const struct mal_option *option = &line->set->options[i];
        if (!option->positional || seen++ < line->n_positional) continue;
        line->n_positional++;
        return keep(line->set, &line->given[i], text, option->metavar);
    }
    return mal_options_refuse(line->set, "unexpected argument '%s'", text);
}

/* The text of an option that needs one: after `=`, or the next argument. */
static bool take_value(struct command_line *line, const char *name, const char *attached,
                       const char **out) {
    *out = attached;
    if (attached) return true;
    const char *next = line->next < line->argc ? line->argv[line->next] : NULL;
    if (!next) return mal_options_refuse(line->set, "--%s needs a value", name);
    if (strncmp(next, "--", 2) == 0) {
        return mal_options_refuse(line->set,
                                  "--%s needs a value, but '%s' follows "
                                  "(write --%s=%s if that is the value)",
                                  name, next, name, next);
    }
    line->next++;
    *out = next;
    return true;
}

static bool take_named(struct command_line *line, const char *argument) {
    char name[64];
    const char *attached = strchr(argument, '=');
    size_t length = attached ? (size_t)(attached++ - argument) : strlen(argument);
    if (length >= sizeof name) return refuse_unknown(line->set, argument);
    memcpy(name, argument, length);
    name[length] = '\0';

    const char *text = NULL;
    if (strcmp(name, "help") == 0 && (!attached || strcmp(attached, "json") == 0)) {
        line->help = true;
        line->help_json = attached != NULL;
        return true;
    }
    if (line->set->configurable && strcmp(name, config_name) == 0) {
        if (!take_value(line, name, attached, &text)) return false;
        mal_free(line->config);
        line->config = mal_strdup(text);
        return line->config || mal_options_no_memory(line->set);
    }
    for (size_t i = 0; line->set->options[i].name; i++) {
        const struct mal_option *option = &line->set->options[i];
        if (option->positional || strcmp(option->name, name) != 0) continue;
        if (option->kind == MAL_OPTION_FLAG) {
            text = attached ? attached : "true";
        } else if (!take_value(line, name, attached, &text)) {
            return false;
        }
        char source[72];
        snprintf(source, sizeof source, "--%s", name);
        return keep(line->set, &line->given[i], text, source);
    }
    return refuse_unknown(line->set, name);
}

static bool read_command_line(struct command_line *line) {
    for (line->next = 1; line->next < line->argc && !line->help;) {
        const char *argument = line->argv[line->next++];
        bool ok;
        if (line->only_positional || argument[0] != '-' || strcmp(argument, "-") == 0) {
            ok = take_positional(line, argument);
        } else if (strcmp(argument, "--") == 0) {
            line->only_positional = true;
            ok = true;
        } else if (strcmp(argument, "-h") == 0) {
            line->help = true;
            ok = true;
        } else if (argument[1] == '-') {
            ok = take_named(line, argument + 2);
        } else {
            ok = mal_options_refuse(line->set, "there is no option %s", argument);
        }
        if (!ok) return false;
    }
    return true;
}

/* The default where nothing was said; a text becomes a value. */
static void set_value(const struct mal_option_set *set, const struct mal_option *option,
                      const struct mal_given *given, void *values) {
    const char *text = given->text ? given->text : option->fallback;
    const char *source = given->text ? given->source : option->name;
    if (given->refused) return;
    if (text) {
        mal_option_set_value(set, option, text, source, values);
    } else if (option->required && option->positional) {
        mal_options_refuse(set, "%s is required", option->metavar);
    } else if (option->required) {
        mal_options_refuse(set, "--%s %s is required", option->name, option->metavar);
    } else {
        mal_option_clear_value(option, values);
    }
}

bool mal_options_parse_origins(const struct mal_option_set *set, int argc, char **argv,
                               void *values, json_t **out_origins, int *out_exit) {
    size_t n = mal_options_count(set);
    struct command_line line = {.set = set, .argc = argc, .argv = argv};
    bool ok = false;
    begin();
    line.given = mal_calloc(n + 1, sizeof *line.given);
    if (!line.given) {
        mal_options_no_memory(set);
        goto end;
    }
    if (!read_command_line(&line)) goto end;
    if (line.help_json) {
        *out_exit = mal_options_print_json(set) ? 0 : 1;
        goto end;
    }
    if (line.help) {
        mal_options_print_help(set);
        *out_exit = 0;
        goto end;
    }
    if (set->configurable) {
        if (!mal_options_from_environment(set, line.given)) goto end;
        const char *path = line.config ? line.config : getenv("MALMEND_CONFIG");
        if (path && *path && !mal_options_from_file(set, path, line.given)) goto end;
    }
    for (size_t i = 0; i < n && !no_memory; i++)
        set_value(set, &set->options[i], &line.given[i], values);
    ok = !refused && !no_memory;
    if (ok && out_origins) {
        *out_origins = mal_options_origins(set, line.given);
        ok = *out_origins || mal_options_no_memory(set);
    }

end:
    ok = end(set, out_exit) && ok;
    for (size_t i = 0; line.given && i < n; i++)
        mal_free(line.given[i].text);
    mal_free(line.given);
    mal_free(line.config);
    return ok;
}

/* Where the value of an option is from, for messages. */
static const char *source_of(const struct mal_option *option, const json_t *origins,
                             char room[72]) {
    mal_option_spell(option->name, "", false, room, 72);
    const char *origin = json_string_value(json_object_get(origins, room));
    if (origin) return origin;
    if (option->positional) return option->metavar;
    snprintf(room, 72, "--%s", option->name);
    return room;
}

bool mal_options_check(const struct mal_option_set *set, const void *values,
                       const json_t *origins, int *out_exit) {
    begin();
    for (size_t i = 0; set->options[i].name && !no_memory; i++) {
        const struct mal_option *option = &set->options[i];
        struct mal_error err = {0};
        char room[72];
        if (!option->check) continue;
        const char *text = *(char *const *)((const char *)values + option->offset);
        if (!text || option->check(text, &err)) continue;
        if (err.status == MAL_NO_MEMORY)
            mal_options_no_memory(set);
        else
            mal_options_refuse(set, "%s: %s", source_of(option, origins, room), err.text);
    }
    return end(set, out_exit);
}

int mal_options_misused(const struct mal_option_set *set, const struct mal_error *err) {
    int code = 0;
    begin();
    mal_options_refuse(set, "%s", err->text);
    no_memory = err->status == MAL_NO_MEMORY;
    (void)end(set, &code);
    return code;
}

bool mal_options_parse(const struct mal_option_set *set, int argc, char **argv,
                       void *values, int *out_exit) {
    return mal_options_parse_origins(set, argc, argv, values, NULL, out_exit) &&
           mal_options_check(set, values, NULL, out_exit);
}

void mal_options_finish(const struct mal_option_set *set, void *values) {
    for (size_t i = 0; set->options[i].name; i++) {
        const struct mal_option *option = &set->options[i];
        if (option->kind != MAL_OPTION_TEXT && option->kind != MAL_OPTION_CHOICE)
            continue;
        char **field = (char **)((char *)values + option->offset);
        mal_free(*field);
        *field = NULL;
    }
}

/* Edits (insert, delete, replace) from a to b; words here are short. */
static size_t distance(const char *a, const char *b) {
    size_t row[64], n = strlen(b);
    if (n >= sizeof row / sizeof *row || strlen(a) >= 64) return SIZE_MAX;
    for (size_t j = 0; j <= n; j++)
        row[j] = j;
    for (size_t i = 1; *a; i++, a++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= n; j++) {
            size_t best = diagonal + (*a != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    return row[n];
}

const char *mal_nearest_word(const char *word, const char *const *words, size_t n) {
    const char *nearest = NULL;
    size_t best = strlen(word) / 3 + 2; /* one slip in three letters */
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, words[i]);
        if (d < best) {
            best = d;
            nearest = words[i];
        }
    }
    return nearest;
}
