/*
 * Data sets on disk -> memory, for `convd train`: MNIST-format IDX files, plain or gzip, or one
 * sub-folder of images for each class.
 */
#ifndef CONVD_SERVER_DATASET_H
#define CONVD_SERVER_DATASET_H

#include <convd/train.h>

#include "server/progress.h"

/* A file of a data set may take this much, as it is and decompressed. */
#define DATASET_MAX_FILE_BYTES ((size_t)1 << 30)

/* Images of different or unsuitable sizes are brought to this one. */
#define DATASET_SIDE 28u

/*
 * Loads a folder.
 *
 * With train-images-idx3-ubyte or train-images.idx3-ubyte in it (perhaps with .gz), and the labels
 * likewise, it is an IDX data set. Otherwise each sub-folder is a class, named like it, in natural
 * order ("9" before "10"), and each file in it an image (JPEG, PNG or BMP); hidden files are passed
 * over, anything else is an error that names the file. Images become grey and, like the server's
 * uploads for the trained model, light on dark; they keep their size if it is the same for all, and
 * one that training takes. Classes are spread evenly, so that any part of the order holds all of
 * them in proportion.
 *
 * `progress` (may be NULL) follows the decoding of images. On failure nothing is left to free.
 */
enum cvd_status dataset_load(const char *folder, FILE *progress, struct cvd_dataset *out,
                             struct cvd_error *err);

#endif
