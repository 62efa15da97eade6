/* main.c - the malmend binary: which command is meant. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <jansson.h>

#include "core/cpu/blas.h"
#include "daemon/command/commands.h"
#include "daemon/command/options.h"
#include "mal_config.h"

struct command {
    const char *name, *help;
    int (*run)(int argc, char **argv);
};

static const struct command commands[] = {
    {"serve", "the daemon: edits over HTTP", mal_cmd_serve},
    {"edit", "one batch of facts without a daemon", mal_cmd_edit},
    {"train", "trains an editor", mal_cmd_train},
    {"eval", "how well an editor edits, on held-out facts", mal_cmd_eval},
    {"init-editor", "an editor that needs no training", mal_cmd_init_editor},
    {"facts", "files of facts, data sets too, as the API has them", mal_cmd_facts},
    {"complete", "continues a prompt", mal_cmd_complete},
    {"tokenize", "text to token ids and back", mal_cmd_tokenize},
    {"logits", "logits of given token ids", mal_cmd_logits},
    {"export", "a version for another engine", mal_cmd_export},
    {"token", "a token for callers of the daemon", mal_cmd_token},
    {"verify", "checks a database and replays its versions", mal_cmd_verify},
    {"backup", "a copy of a database in use", mal_cmd_backup},
};

enum { N_COMMANDS = sizeof commands / sizeof *commands };

static void print_help(FILE *to) {
    fprintf(to, "Usage: malmend COMMAND [options]\n\n"
                "Edits facts in a live language model.\n\nCommands:\n");
    for (size_t i = 0; i < N_COMMANDS; i++) {
        fprintf(to, "  %-14s%s\n", commands[i].name, commands[i].help);
    }
    fprintf(to, "\n'malmend COMMAND --help' explains a command's options.\n"
                "'malmend --version' prints the version.\n"
                "Exit codes: 0 done, 1 failed, 2 wrong usage.\n");
}

/* The same for programs, and on lines of their own the tables of all commands. */
static bool print_json(void) {
    char option[] = "--help=json";
    json_t *list = json_array();
    for (size_t i = 0; i < N_COMMANDS; i++) {
        json_array_append_new(list, json_pack("{s:s,s:s}", "name", commands[i].name,
                                              "help", commands[i].help));
    }
    json_t *json = json_pack("{s:s,s:o}", "version", MAL_VERSION, "commands", list);
    bool ok = json != NULL;
    if (ok) (void)json_dumpf(json, stdout, JSON_COMPACT); /* main() looks at the stream */
    putchar('\n');
    json_decref(json);
    for (size_t i = 0; ok && i < N_COMMANDS; i++) {
        char *of_command[] = {(char *)commands[i].name, option, NULL};
        ok = commands[i].run(2, of_command) == 0;
    }
    return ok;
}

static int refuse(const char *name) {
    const char *words[N_COMMANDS];
    for (size_t i = 0; i < N_COMMANDS; i++)
        words[i] = commands[i].name;
    const char *near = mal_nearest_word(name, words, N_COMMANDS);
    const char *kind = name[0] == '-' ? "option" : "command";
    fprintf(stderr, "malmend: there is no %s '%s'", kind, name);
    if (near) fprintf(stderr, "; did you mean '%s'?", near);
    fprintf(stderr, "\nSee 'malmend --help'.\n");
    return 2;
}

static const struct command *find(const char *name) {
    for (size_t i = 0; i < N_COMMANDS; i++) {
        if (strcmp(name, commands[i].name) == 0) return &commands[i];
    }
    return NULL;
}

/* `help` alone, or with the command it is about. */
static int help(int argc, char **argv) {
    char option[] = "--help";
    if (argc == 1) {
        print_help(stdout);
        return 0;
    }
    const struct command *command = find(argv[1]);
    char *of_command[] = {argv[1], option, NULL};
    return command ? command->run(2, of_command) : refuse(argv[1]);
}

static int run(int argc, char **argv) {
    if (argc < 2) {
        print_help(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        print_help(stdout);
        return 0;
    }
    if (strcmp(argv[1], "--help=json") == 0) return print_json() ? 0 : 1;
    if (strcmp(argv[1], "--version") == 0) {
        printf("malmend %s\n", MAL_VERSION);
        return 0;
    }
    if (strcmp(argv[1], "help") == 0) return help(argc - 1, argv + 1);
    const struct command *command = find(argv[1]);
    return command ? command->run(argc - 1, argv + 1) : refuse(argv[1]);
}

/* Whatever is opened next would take a closed stream's place, be it the database, and be
 * read or written as that: in its place is now what refuses both. */
static void keep_streams(void) {
    for (int fd = STDIN_FILENO; fd <= STDERR_FILENO; fd++) {
        if (fcntl(fd, F_GETFD) >= 0 || errno != EBADF) continue;
        (void)!open("/dev/null", fd == STDIN_FILENO ? O_WRONLY : O_RDONLY);
    }
}

int main(int argc, char **argv) {
    keep_streams();
    signal(SIGXFSZ,
           SIG_IGN); /* a limit on files is an error of write(), like a full disk */
    mal_cpu_prepare(argv);
    prctl(PR_SET_NAME, "malmend"); /* it may have been executed as /proc/self/exe */
    int code = run(argc, argv);
    /* What was printed may only now meet a full disk. */
    bool lost = ferror(stdout) != 0;
    if ((fclose(stdout) != 0 || lost) && code == 0) {
        fprintf(stderr, "malmend: cannot write to standard output\n");
        code = 1;
    }
    return code;
}
