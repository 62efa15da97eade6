/* options_help.c - `malmend COMMAND --help`: the table of options, in words. */
#include "daemon/command/options_impl.h"

#include <stdio.h>
#include <string.h>

enum { WIDTH = 88, COLUMN = 28 };

/* Prints words from column `indent` on, broken at WIDTH; *column is where the line
 * stands. */
static void print_wrapped(const char *text, int indent, int *column) {
    while (*text) {
        if (text[0] == '\n' && text[1] == '\n') {
            printf("\n\n%*s", indent, "");
            *column = indent;
            text += 2;
            continue;
        }
        if (*text == ' ' || *text == '\n') {
            text++;
            continue;
        }
        int length = (int)strcspn(text, " \n");
        if (*column > indent && *column + 1 + length > WIDTH) {
            printf("\n%*s", indent, "");
            *column = indent;
        } else if (*column > indent) {
            putchar(' ');
            ++*column;
        }
        printf("%.*s", length, text);
        *column += length;
        text += length;
    }
}

static void print_entry(const char *left, const char *help, const char *note) {
    int column = COLUMN;
    int length = printf("  %s", left);
    if (length >= COLUMN) {
        printf("\n%*s", COLUMN, "");
    } else {
        printf("%*s", COLUMN - length, "");
    }
    print_wrapped(help, COLUMN, &column);
    if (note) print_wrapped(note, COLUMN, &column);
    putchar('\n');
}

static void print_usage(const struct mal_option_set *set) {
    bool optional = false;
    char piece[160];
    int indent = (int)strlen("Usage: malmend ") + (int)strlen(set->command) + 1;
    int column = printf("Usage: malmend %s ", set->command);
    for (size_t i = 0; set->options[i].name; i++) {
        const struct mal_option *option = &set->options[i];
        if (option->positional) continue;
        optional = optional || !option->required;
        if (!option->required) continue;
        snprintf(piece, sizeof piece, "--%s %s", option->name, option->metavar);
        print_wrapped(piece, indent, &column);
    }
    if (optional || set->configurable) print_wrapped("[options]", indent, &column);
    for (size_t i = 0; set->options[i].name; i++) {
        const struct mal_option *option = &set->options[i];
        if (!option->positional) continue;
        snprintf(piece, sizeof piece, option->required ? "%s" : "[%s]", option->metavar);
        print_wrapped(piece, indent, &column);
    }
    printf("\n\n");
}

static void print_option(const struct mal_option *option) {
    char left[96], note[160] = "";
    if (option->positional) {
        snprintf(left, sizeof left, "%s", option->metavar);
    } else if (option->kind == MAL_OPTION_FLAG) {
        snprintf(left, sizeof left, "--%s", option->name);
    } else {
        snprintf(left, sizeof left, "--%s %s", option->name, option->metavar);
    }
    if (option->required) {
        snprintf(note, sizeof note, "(required)");
    } else if (option->kind == MAL_OPTION_FLAG) {
        snprintf(note, sizeof note, "(default: %s)",
                 option->fallback && strcmp(option->fallback, "true") == 0 ? "on"
                                                                           : "off");
    } else if (option->fallback) {
        snprintf(note, sizeof note, "(default: %s)",
                 *option->fallback ? option->fallback : "empty");
    } else {
        snprintf(note, sizeof note, "(default: none)");
    }
    print_entry(left, option->help, note);
}

void mal_options_print_help(const struct mal_option_set *set) {
    int column = 0;
    print_usage(set);
    print_wrapped(set->about, 0, &column);
    printf("\n\nOptions:\n");
    for (size_t i = 0; set->options[i].name; i++)
        print_option(&set->options[i]);
    if (set->configurable) {
        print_entry("--config FILE",
                    "a JSON object of these options, their names with underscores.",
                    "(default: none)");
    }
    print_entry("--help", "prints this.", NULL);
    if (!set->configurable) return;
    column = 0;
    putchar('\n');
    print_wrapped(
        "Every option can also be given in the environment as MALMEND_ and its name "
        "in capitals with underscores (--max-queue: MALMEND_MAX_QUEUE). What the "
        "command line says counts before the environment, and that before the file.",
        0, &column);
    putchar('\n');
}
