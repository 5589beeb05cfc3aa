/* Folders of images -> data sets; a part of dataset_load(). */
#ifndef CONVD_SERVER_DATASET_FOLDER_H
#define CONVD_SERVER_DATASET_FOLDER_H

#include "server/dataset.h"

enum cvd_status dataset_folder_load(const char *folder, FILE *progress, struct cvd_dataset *out,
                                    struct cvd_error *err);

#endif
