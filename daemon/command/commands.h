/* commands.h - the commands of the binary: one function each, in
 * daemon/command/cmd_<name>.c.
 *
 * argv[0] is the command's name. Returns the exit code: 0 done, 1 failed, 2 wrong usage.
 */
#ifndef MAL_COMMANDS_H
#define MAL_COMMANDS_H

int mal_cmd_backup(int argc, char **argv);
int mal_cmd_complete(int argc, char **argv);
int mal_cmd_edit(int argc, char **argv);
int mal_cmd_eval(int argc, char **argv);
int mal_cmd_export(int argc, char **argv);
int mal_cmd_facts(int argc, char **argv);
int mal_cmd_init_editor(int argc, char **argv);
int mal_cmd_logits(int argc, char **argv);
int mal_cmd_serve(int argc, char **argv);
int mal_cmd_train(int argc, char **argv);
int mal_cmd_token(int argc, char **argv);
int mal_cmd_tokenize(int argc, char **argv);
int mal_cmd_verify(int argc, char **argv);

#endif
