/* The subcommands, one file each. argv[0] is the subcommand's name; the result is the exit code:
 * 0 success, 1 failure, 2 wrong usage. */
#ifndef CONVD_SERVER_COMMANDS_H
#define CONVD_SERVER_COMMANDS_H

int cmd_serve(int argc, char **argv);
int cmd_classify(int argc, char **argv);
int cmd_inspect(int argc, char **argv);
int cmd_bench(int argc, char **argv);
int cmd_train(int argc, char **argv);

#endif
