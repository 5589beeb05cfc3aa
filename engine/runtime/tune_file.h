/*
 * Choices made by timing (graph/tune.h), kept in a folder: one text file for each version of convd,
 * CPU level and model of CPU, whose names are the file's. Its first line repeats that name, each
 * other is a key and a tile.
 *
 * Several processes may share a folder: a file is replaced as a whole, the last one stays.
 */
#ifndef CONVD_RUNTIME_TUNE_FILE_H
#define CONVD_RUNTIME_TUNE_FILE_H

#include "engine/graph/tune.h"
#include "engine/runtime/cpu.h"

#define TUNE_FILE_NAME_BYTES (CPU_MODEL_BYTES + 48)
void tune_file_name(const struct kernels *kernels, char name[TUNE_FILE_NAME_BYTES]);

/* Puts what the folder knows of this machine into *t, which is empty, or nothing: INVALID_DATA for
 * a file that is not as it should be, IO for one that cannot be read. A missing one is no error. */
enum cvd_status tune_file_read(struct tune *t, const char *folder, struct cvd_error *err);

/* Keeps all choices of *t. */
enum cvd_status tune_file_write(const struct tune *t, const char *folder, struct cvd_error *err);

#endif
