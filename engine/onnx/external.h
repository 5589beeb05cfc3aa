/* Tensor data in files of their own, beside the model. */
#ifndef CONVD_ONNX_EXTERNAL_H
#define CONVD_ONNX_EXTERNAL_H

#include <convd/status.h>

#include "engine/onnx/wire.h"

/* Opens the regular file at `location` (a path in the model) below `folder` and checks that `bytes`
 * bytes from `offset` on lie inside it. *fd is the caller's to close. `portable` takes the way that
 * older kernels need, for tests. */
enum cvd_status external_open(const char *folder, struct wire_bytes location, uint64_t offset,
                              size_t bytes, bool portable, int *fd, struct cvd_error *err);

/* Reads exactly that range. */
enum cvd_status external_read(int fd, uint64_t offset, void *data, size_t bytes,
                              struct cvd_error *err);

#endif
