/*
 * Runs a fuzz target over files instead of under libFuzzer, so that `make test` replays everything
 * that fuzzing has found worth keeping.
 *
 *   replay_fuzz_X [FILE|FOLDER]...    without arguments: the folder tests/fuzz/corpus/X
 *
 * Prints each file before it runs it, so that the last line names the one that crashed.
 */
#include "tests/fuzz/fuzz.h"

#include <dirent.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define PREFIX "replay_fuzz_"

static unsigned passed, failed;

static void complain(const char *path, const char *what)
{
    fprintf(stderr, "%s: %s\n", path, what);
    failed++;
}

static void replay_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) {
        complain(path, strerror(errno));
        return;
    }
    uint8_t *data = NULL;
    size_t len = 0, room = 0;
    for (size_t got = 1; got > 0; len += got) {
        if (len == room) {
            uint8_t *grown = realloc(data, room = room ? room * 2 : 65536);
            if (!grown)
                break;
            data = grown;
        }
        got = fread(data + len, 1, room - len, f);
    }
    bool whole = feof(f) && !ferror(f);
    fclose(f);
    if (whole) {
        printf("%s\n", path);
        fflush(stdout);
        LLVMFuzzerTestOneInput(data, len);
        passed++;
    } else {
        complain(path, "cannot be read");
    }
    free(data);
}

static int visible(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static void replay(const char *path)
{
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        replay_file(path);
        return;
    }
    struct dirent **entries;
    int count = scandir(path, &entries, visible, alphasort);
    if (count <= 0)
        complain(path, count < 0 ? strerror(errno) : "an empty corpus");
    for (int i = 0; i < count; i++) {
        char *file = NULL;
        if (asprintf(&file, "%s/%s", path, entries[i]->d_name) > 0)
            replay_file(file);
        else
            complain(path, "no memory");
        free(file);
        free(entries[i]);
    }
    if (count >= 0)
        free(entries);
}

int main(int argc, char **argv)
{
    if (LLVMFuzzerInitialize)
        LLVMFuzzerInitialize(&argc, &argv);
    for (int i = 1; i < argc; i++)
        replay(argv[i]);
    if (argc == 1) {
        const char *slash = strrchr(argv[0], '/');
        const char *name = slash ? slash + 1 : argv[0];
        char folder[256];
        if (strncmp(name, PREFIX, strlen(PREFIX)) != 0) {
            fprintf(stderr, "%s: named %sX, or given files to replay\n", name, PREFIX);
            return 2;
        }
        snprintf(folder, sizeof(folder), "tests/fuzz/corpus/%s", name + strlen(PREFIX));
        replay(folder);
    }
    printf("%u passed, %u failed\n", passed, failed);
    return failed > 0 || passed == 0;
}
