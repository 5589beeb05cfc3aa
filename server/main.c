/* convd: finds the subcommand. */
#include "server/commands.h"

#include <convd/version.h>

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char overview[] =
    "convd: convolutional neural networks over HTTP\n"
    "\n"
    "usage: convd [serve] [options]                     the daemon\n"
    "       convd classify [--model NAME|FILE] IMAGE... classify image files\n"
    "       convd inspect [MODEL|FILE]                  the layers of a model and their cost\n"
    "       convd bench [MODEL|FILE] [options]          how fast a model runs here\n"
    "       convd train --data DIR --output FILE        train a LeNet-5\n"
    "       convd --version | --help\n"
    "\n"
    "Each command explains itself with --help. Without any option the daemon listens on\n"
    "127.0.0.1:8080 and classifies digits:\n"
    "\n"
    "    convd &\n"
    "    curl -T digit.png http://127.0.0.1:8080/classify\n";

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"serve", cmd_serve}, {"classify", cmd_classify}, {"inspect", cmd_inspect},
    {"bench", cmd_bench}, {"train", cmd_train},
};

/* A descriptor 0, 1 or 2 that was closed would be given to the next socket, and log lines to some
 * client. */
static void open_standard_files(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd > STDERR_FILENO)
        close(fd);
}

int main(int argc, char **argv)
{
    static char serve_name[] = "serve";

    open_standard_files();
    if (argc > 1 && strcmp(argv[1], "--help") == 0) {
        fputs(overview, stdout);
        return 0;
    }
    if (argc > 1 && strcmp(argv[1], "--version") == 0) {
        puts("convd " CVD_VERSION);
        return 0;
    }
    if (argc > 1 && argv[1][0] != '-') {
        for (size_t i = 0; i < sizeof commands / sizeof *commands; i++)
            if (strcmp(argv[1], commands[i].name) == 0)
                return commands[i].run(argc - 1, argv + 1);
        fprintf(stderr, "convd: unknown command '%s'\n\n%s", argv[1], overview);
        return 2;
    }
    /* Options alone: the daemon. argv[0] takes the place of the subcommand's name. */
    argv[0] = serve_name;
    return cmd_serve(argc, argv);
}
